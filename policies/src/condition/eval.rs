//! From an expression and facts to true or false. What has no value (an overflow, an attribute that is not there) is an
//! error, and a condition with an error does not hold.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::check::Expr;
use super::parse::{Pattern, Sum};
use super::schema::Attribute;
use crate::edge::CompiledEdge;
use crate::names::CountryCode;
use crate::vocabulary::Purpose;

/// What a condition is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Along which edge.
    pub edge: &'a CompiledEdge,
    /// What for.
    pub purpose: Purpose,
    /// What would go.
    pub fields: &'a BTreeSet<String>,
    /// When.
    pub now: Timestamp,
    /// The subject's age in years, where it is known.
    pub age: Option<u8>,
    /// Where the subject lives, where it is known.
    pub country: Option<&'a CountryCode>,
}

/// A value.
#[derive(Debug, Clone)]
enum Value<'a> {
    Bool(bool),
    Long(i64),
    Text(&'a str),
    Set(Vec<Value<'a>>),
    /// A set that is there already.
    Names(&'a BTreeSet<String>),
}

type Evaluated<'a> = Result<Value<'a>, &'static str>;

/// What the checked types rule out.
const ILL_TYPED: &str = "its types do not fit";
const OVERFLOW: &str = "a number in it is too large";

pub(super) fn holds(expr: &Expr, facts: &Facts<'_>) -> Result<bool, &'static str> {
    truth(expr, facts)
}

fn truth(expr: &Expr, facts: &Facts<'_>) -> Result<bool, &'static str> {
    match evaluate(expr, facts)? {
        Value::Bool(value) => Ok(value),
        _ => Err(ILL_TYPED),
    }
}

fn long(expr: &Expr, facts: &Facts<'_>) -> Result<i64, &'static str> {
    match evaluate(expr, facts)? {
        Value::Long(value) => Ok(value),
        _ => Err(ILL_TYPED),
    }
}

fn evaluate<'a>(expr: &'a Expr, facts: &Facts<'a>) -> Evaluated<'a> {
    Ok(match expr {
        Expr::Bool(value) => Value::Bool(*value),
        Expr::Long(value) => Value::Long(*value),
        Expr::Text(text) => Value::Text(text),
        Expr::Set(parts) => Value::Set(
            parts
                .iter()
                .map(|part| evaluate(part, facts))
                .collect::<Result<_, _>>()?,
        ),
        Expr::Attribute(attribute) => facts.attribute(*attribute)?,
        Expr::Has(attribute) => Value::Bool(facts.attribute(*attribute).is_ok()),
        Expr::Not(inner) => Value::Bool(!truth(inner, facts)?),
        Expr::Negative(inner) => Value::Long(long(inner, facts)?.checked_neg().ok_or(OVERFLOW)?),
        Expr::And(left, right) => Value::Bool(truth(left, facts)? && truth(right, facts)?),
        Expr::Or(left, right) => Value::Bool(truth(left, facts)? || truth(right, facts)?),
        Expr::Equal(left, right) => Value::Bool(evaluate(left, facts)?.equals(&evaluate(right, facts)?)),
        Expr::Less(left, right) => Value::Bool(long(left, facts)? < long(right, facts)?),
        Expr::LessOrEqual(left, right) => Value::Bool(long(left, facts)? <= long(right, facts)?),
        Expr::Sum(sum, left, right) => {
            let (left, right) = (long(left, facts)?, long(right, facts)?);
            let value = match sum {
                Sum::Plus => left.checked_add(right),
                Sum::Minus => left.checked_sub(right),
                Sum::Times => left.checked_mul(right),
            };
            Value::Long(value.ok_or(OVERFLOW)?)
        }
        Expr::If(condition, then, _) if truth(condition, facts)? => evaluate(then, facts)?,
        Expr::If(_, _, otherwise) => evaluate(otherwise, facts)?,
        Expr::Like(of, pattern) => match evaluate(of, facts)? {
            Value::Text(text) => Value::Bool(like(text, pattern)),
            _ => return Err(ILL_TYPED),
        },
        Expr::Contains(of, one) => Value::Bool(evaluate(of, facts)?.contains(&evaluate(one, facts)?)),
        Expr::ContainsAll(of, others) => {
            let of = evaluate(of, facts)?;
            Value::Bool(evaluate(others, facts)?.elements().all(|one| of.contains(&one)))
        }
        Expr::ContainsAny(of, others) => {
            let of = evaluate(of, facts)?;
            Value::Bool(evaluate(others, facts)?.elements().any(|one| of.contains(&one)))
        }
        Expr::IsEmpty(of) => Value::Bool(evaluate(of, facts)?.elements().next().is_none()),
    })
}

impl<'a> Value<'a> {
    fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bool(one), Self::Bool(other)) => one == other,
            (Self::Long(one), Self::Long(other)) => one == other,
            (Self::Text(one), Self::Text(other)) => one == other,
            (Self::Set(_) | Self::Names(_), Self::Set(_) | Self::Names(_)) => {
                self.elements().all(|one| other.contains(&one)) && other.elements().all(|one| self.contains(&one))
            }
            _ => false,
        }
    }

    fn contains(&self, one: &Self) -> bool {
        match (self, one) {
            (Self::Names(names), Self::Text(text)) => names.contains(*text),
            (Self::Set(parts), one) => parts.iter().any(|part| part.equals(one)),
            _ => false,
        }
    }

    fn elements(&self) -> impl Iterator<Item = Value<'a>> {
        let (parts, names) = match self {
            Self::Set(parts) => (parts.as_slice(), None),
            Self::Names(names) => (&[][..], Some(names)),
            _ => (&[][..], None),
        };
        let names = names.into_iter().flat_map(|names| names.iter());
        parts.iter().cloned().chain(names.map(|name| Value::Text(name)))
    }
}

impl<'a> Facts<'a> {
    fn attribute(&self, attribute: Attribute) -> Evaluated<'a> {
        let edge = self.edge;
        Ok(match attribute {
            Attribute::Class => Value::Text(edge.class.as_str()),
            Attribute::Purpose => Value::Text(self.purpose.as_str()),
            Attribute::Fields => Value::Names(self.fields),
            Attribute::Tenant => Value::Text(edge.tenant.as_str()),
            Attribute::Organization => Value::Text(edge.organization.as_str()),
            Attribute::From => Value::Text(edge.from.as_str()),
            Attribute::To => Value::Text(edge.to.as_str()),
            Attribute::Importer => Value::Text(edge.importer.as_str()),
            Attribute::Mechanism => Value::Text(edge.mechanism.as_str()),
            Attribute::Pseudonymised => Value::Bool(edge.pseudonymise),
            Attribute::Hour => Value::Long(self.now.to_zoned(TimeZone::UTC).hour().into()),
            Attribute::Weekday => {
                let day = self.now.to_zoned(TimeZone::UTC).weekday();
                Value::Long(day.to_monday_one_offset().into())
            }
            Attribute::Age => Value::Long(self.age.ok_or("the age is not known")?.into()),
            Attribute::Country => Value::Text(self.country.ok_or("the country is not known")?.as_str()),
        })
    }
}

/// Whether the whole text is of the pattern. Goes back to the last `*` only, so that its time is bounded by the product of
/// both lengths.
fn like(text: &str, pattern: &[Pattern]) -> bool {
    let text: Vec<char> = text.chars().collect();
    let (mut at, mut part) = (0, 0);
    let mut last: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(part) {
            Some(Pattern::Character(c)) if *c == text[at] => {
                at += 1;
                part += 1;
            }
            Some(Pattern::Anything) => {
                last = Some((at, part));
                part += 1;
            }
            _ => {
                let Some((begin, star)) = last else { return false };
                last = Some((begin + 1, star));
                at = begin + 1;
                part = star + 1;
            }
        }
    }
    pattern[part..].iter().all(|part| *part == Pattern::Anything)
}
