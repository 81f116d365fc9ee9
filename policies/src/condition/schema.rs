//! What a condition may look at.

use std::fmt::Write as _;

/// The type of a value. Sets are of one type of scalars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Long,
    String,
    SetOfBool,
    SetOfLong,
    SetOfString,
}

impl Type {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bool => "Bool",
            Self::Long => "Long",
            Self::String => "String",
            Self::SetOfBool => "Set<Bool>",
            Self::SetOfLong => "Set<Long>",
            Self::SetOfString => "Set<String>",
        }
    }

    /// The set of such scalars; none of sets.
    pub(super) const fn set(self) -> Option<Self> {
        match self {
            Self::Bool => Some(Self::SetOfBool),
            Self::Long => Some(Self::SetOfLong),
            Self::String => Some(Self::SetOfString),
            _ => None,
        }
    }
}

macro_rules! attributes {
    ($( $(#[$doc:meta])* $variant:ident = $name:literal: $ty:ident $(, $optional:ident)? ; )+) => {
        /// An attribute of `context`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Attribute {
            $( $(#[$doc])* $variant ),+
        }

        impl Attribute {
            /// All of them.
            pub const ALL: &[Self] = &[ $( Self::$variant ),+ ];

            /// The name after `context.`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$variant => $name ),+ }
            }

            pub(super) const fn of_type(self) -> Type {
                match self { $( Self::$variant => Type::$ty ),+ }
            }

            /// Whether it is not always known: then it must be asked for with `has` before.
            #[must_use]
            pub const fn is_optional(self) -> bool {
                match self { $( Self::$variant => attributes!(@ $($optional)?) ),+ }
            }
        }
    };
    (@) => { false };
    (@ optional) => { true };
}

attributes! {
    /// The class of the data.
    Class = "class": String;
    /// What it would be used for.
    Purpose = "purpose": String;
    /// The fields that would go.
    Fields = "fields": SetOfString;
    /// Whose data.
    Tenant = "tenant": String;
    /// The controller.
    Organization = "organization": String;
    /// The exporting region.
    From = "from": String;
    /// The importing region.
    To = "to": String;
    /// The legal entity that imports.
    Importer = "importer": String;
    /// What makes the transfer lawful.
    Mechanism = "mechanism": String;
    /// Whether the subject's identifier is replaced.
    Pseudonymised = "pseudonymised": Bool;
    /// The hour of the moment of the transfer, 0 to 23, UTC.
    Hour = "hour": Long;
    /// Its day of the week, 1 (Monday) to 7, UTC.
    Weekday = "weekday": Long;
    /// The subject's age in years, where it is known.
    Age = "age": Long, optional;
    /// The country that the subject lives in, where it is known.
    Country = "country": String, optional;
}

/// The same as Cedar writes it, for its own tools: the schema that every condition is valid under, as the `when` of
/// `permit(principal is Meridian::Tenant, action == Meridian::Action::"transfer", resource is Meridian::Region)`.
#[must_use]
pub fn cedar_schema() -> String {
    let mut text = "namespace Meridian {\n  entity Tenant, Region;\n  action transfer appliesTo {\n    \
                    principal: [Tenant],\n    resource: [Region],\n    context: {\n"
        .to_owned();
    for attribute in Attribute::ALL {
        let optional = if attribute.is_optional() { "?" } else { "" };
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "      \"{}\"{optional}: {},",
            attribute.name(),
            attribute.of_type().name()
        );
    }
    text.push_str("    },\n  };\n}\n");
    text
}
