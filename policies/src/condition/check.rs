//! From a tree to an expression whose types fit, as Cedar's strict validator demands it: both sides of a comparison have one
//! type, sets are of one type and not empty, and what is not always known is asked for with `has` first.

use std::collections::BTreeSet;

use super::ConditionError;
use super::parse::{Ast, Node, Pattern, Relation, Sum};
use super::schema::{Attribute, Type};

/// An expression that can be evaluated.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expr {
    Bool(bool),
    Long(i64),
    Text(String),
    Set(Vec<Expr>),
    Attribute(Attribute),
    Has(Attribute),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Equal(Box<Expr>, Box<Expr>),
    Less(Box<Expr>, Box<Expr>),
    LessOrEqual(Box<Expr>, Box<Expr>),
    Sum(Sum, Box<Expr>, Box<Expr>),
    If(Box<Expr>, Box<Expr>, Box<Expr>),
    Like(Box<Expr>, Vec<Pattern>),
    Contains(Box<Expr>, Box<Expr>),
    ContainsAll(Box<Expr>, Box<Expr>),
    ContainsAny(Box<Expr>, Box<Expr>),
    IsEmpty(Box<Expr>),
}

impl Expr {
    /// Whether it may come to something else at another moment.
    pub(super) fn reads_clock(&self) -> bool {
        match self {
            Self::Attribute(attribute) => matches!(attribute, Attribute::Hour | Attribute::Weekday),
            Self::Bool(_) | Self::Long(_) | Self::Text(_) | Self::Has(_) => false,
            Self::Set(parts) => parts.iter().any(Self::reads_clock),
            Self::Not(of) | Self::Negative(of) | Self::Like(of, _) | Self::IsEmpty(of) => of.reads_clock(),
            Self::And(left, right)
            | Self::Or(left, right)
            | Self::Equal(left, right)
            | Self::Less(left, right)
            | Self::LessOrEqual(left, right)
            | Self::Sum(_, left, right)
            | Self::Contains(left, right)
            | Self::ContainsAll(left, right)
            | Self::ContainsAny(left, right) => left.reads_clock() || right.reads_clock(),
            Self::If(condition, then, otherwise) => [condition, then, otherwise].iter().any(|part| part.reads_clock()),
        }
    }
}

/// Attributes that are known to be there.
type Known = BTreeSet<Attribute>;

struct Checked {
    expr: Expr,
    of: Type,
    /// What is known to be there where this is true.
    known: Known,
}

impl Checked {
    fn new(expr: Expr, of: Type) -> Self {
        let known = Known::new();
        Self { expr, of, known }
    }
}

/// The condition that a tree says: something that is true or false.
pub(super) fn condition(ast: &Ast) -> Result<Expr, ConditionError> {
    Ok(typed(ast, &Known::new(), Type::Bool)?.expr)
}

fn typed(ast: &Ast, known: &Known, wanted: Type) -> Result<Checked, ConditionError> {
    let checked = check(ast, known)?;
    if checked.of == wanted {
        return Ok(checked);
    }
    let problem = format!("this is a {}; a {} is needed", checked.of.name(), wanted.name());
    Err(ConditionError::new(ast.at, problem))
}

fn boxed(ast: &Ast, known: &Known, wanted: Type) -> Result<Box<Expr>, ConditionError> {
    Ok(Box::new(typed(ast, known, wanted)?.expr))
}

fn check(ast: &Ast, known: &Known) -> Result<Checked, ConditionError> {
    let error = |problem: String| ConditionError::new(ast.at, problem);
    Ok(match &ast.node {
        Node::Bool(value) => Checked::new(Expr::Bool(*value), Type::Bool),
        Node::Long(value) => Checked::new(Expr::Long(*value), Type::Long),
        Node::Text(value) => Checked::new(Expr::Text(value.clone()), Type::String),
        Node::Set(parts) => set(ast, parts, known)?,
        Node::Attribute(name) => {
            let attribute = named(ast, name)?;
            if attribute.is_optional() && !known.contains(&attribute) {
                return Err(error(format!(
                    "context.{name} is not always known; write `context has {name} && …`"
                )));
            }
            Checked::new(Expr::Attribute(attribute), attribute.of_type())
        }
        Node::Has(name) => {
            let attribute = named(ast, name)?;
            let known = Known::from([attribute]);
            Checked {
                known,
                ..Checked::new(Expr::Has(attribute), Type::Bool)
            }
        }
        Node::Not(inner) => Checked::new(Expr::Not(boxed(inner, known, Type::Bool)?), Type::Bool),
        Node::Negative(inner) => Checked::new(Expr::Negative(boxed(inner, known, Type::Long)?), Type::Long),
        Node::And(left, right) => {
            let left = typed(left, known, Type::Bool)?;
            let right = typed(right, &(known | &left.known), Type::Bool)?;
            Checked {
                known: &left.known | &right.known,
                ..Checked::new(Expr::And(Box::new(left.expr), Box::new(right.expr)), Type::Bool)
            }
        }
        Node::Or(left, right) => {
            let (left, right) = (typed(left, known, Type::Bool)?, typed(right, known, Type::Bool)?);
            Checked {
                known: &left.known & &right.known,
                ..Checked::new(Expr::Or(Box::new(left.expr), Box::new(right.expr)), Type::Bool)
            }
        }
        Node::Relation(relation, left, right) => self::relation(*relation, left, right, known)?,
        Node::Sum(sum, left, right) => {
            let (left, right) = (boxed(left, known, Type::Long)?, boxed(right, known, Type::Long)?);
            Checked::new(Expr::Sum(*sum, left, right), Type::Long)
        }
        Node::If(condition, then, otherwise) => {
            let condition = typed(condition, known, Type::Bool)?;
            let then = check(then, &(known | &condition.known))?;
            let otherwise = typed(otherwise, known, then.of)?;
            Checked {
                known: &(&condition.known | &then.known) & &otherwise.known,
                of: then.of,
                expr: Expr::If(Box::new(condition.expr), Box::new(then.expr), Box::new(otherwise.expr)),
            }
        }
        Node::Like(of, pattern) => {
            let of = boxed(of, known, Type::String)?;
            Checked::new(Expr::Like(of, pattern.clone()), Type::Bool)
        }
        Node::Method(of, name, arguments) => method(ast, of, name, arguments, known)?,
    })
}

fn named(ast: &Ast, name: &str) -> Result<Attribute, ConditionError> {
    let found = Attribute::ALL.iter().find(|attribute| attribute.name() == name);
    found.copied().ok_or_else(|| {
        let known: Vec<&str> = Attribute::ALL.iter().map(|attribute| attribute.name()).collect();
        let problem = format!("context has no attribute '{name}'; there are {}", known.join(", "));
        ConditionError::new(ast.at, problem)
    })
}

fn set(ast: &Ast, parts: &[Ast], known: &Known) -> Result<Checked, ConditionError> {
    let Some((first, rest)) = parts.split_first() else {
        return Err(ConditionError::new(ast.at, "an empty set has no type; leave it out"));
    };
    let head = check(first, known)?;
    let Some(of) = head.of.set() else {
        return Err(ConditionError::new(
            first.at,
            "a set of sets is not part of a condition",
        ));
    };
    let mut all = vec![head.expr];
    for part in rest {
        all.push(typed(part, known, head.of)?.expr);
    }
    Ok(Checked::new(Expr::Set(all), of))
}

fn relation(relation: Relation, left: &Ast, right: &Ast, known: &Known) -> Result<Checked, ConditionError> {
    let expr = match relation {
        Relation::Equal | Relation::NotEqual => {
            let left = check(left, known)?;
            let right = typed(right, known, left.of)?;
            let equal = Expr::Equal(Box::new(left.expr), Box::new(right.expr));
            if relation == Relation::Equal {
                equal
            } else {
                Expr::Not(Box::new(equal))
            }
        }
        _ => {
            let (left, right) = (boxed(left, known, Type::Long)?, boxed(right, known, Type::Long)?);
            match relation {
                Relation::Less => Expr::Less(left, right),
                Relation::LessOrEqual => Expr::LessOrEqual(left, right),
                Relation::Greater => Expr::Less(right, left),
                _ => Expr::LessOrEqual(right, left),
            }
        }
    };
    Ok(Checked::new(expr, Type::Bool))
}

fn method(ast: &Ast, of: &Ast, name: &str, arguments: &[Ast], known: &Known) -> Result<Checked, ConditionError> {
    let error = |problem: String| ConditionError::new(ast.at, problem);
    let receiver = check(of, known)?;
    let element = match receiver.of {
        Type::SetOfBool => Type::Bool,
        Type::SetOfLong => Type::Long,
        Type::SetOfString => Type::String,
        other => return Err(error(format!("a {} has no method {name}", other.name()))),
    };
    let of = Box::new(receiver.expr);
    let expr = match (name, arguments) {
        ("contains", [one]) => Expr::Contains(of, boxed(one, known, element)?),
        ("containsAll", [other]) => Expr::ContainsAll(of, boxed(other, known, receiver.of)?),
        ("containsAny", [other]) => Expr::ContainsAny(of, boxed(other, known, receiver.of)?),
        ("isEmpty", []) => Expr::IsEmpty(of),
        ("contains" | "containsAll" | "containsAny", _) => return Err(error(format!("{name} takes one argument"))),
        ("isEmpty", _) => return Err(error("isEmpty takes no argument".to_owned())),
        _ => {
            let known = "contains, containsAll, containsAny, isEmpty";
            return Err(error(format!("'{name}' is no method; there are {known}")));
        }
    };
    Ok(Checked::new(expr, Type::Bool))
}
