//! From tokens to a tree, by Cedar's grammar: `if` binds least, then `||`, `&&`, one relation, `+ -`, `*`, `! -`, members.

use super::ConditionError;
use super::lex::{Placed, Token, tokens, unescaped};

/// A part of the text and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ast {
    pub(super) at: usize,
    pub(super) node: Node,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Bool(bool),
    Long(i64),
    Text(String),
    Set(Vec<Ast>),
    /// `context.NAME`
    Attribute(String),
    /// `context has NAME`
    Has(String),
    Not(Box<Ast>),
    Negative(Box<Ast>),
    And(Box<Ast>, Box<Ast>),
    Or(Box<Ast>, Box<Ast>),
    Relation(Relation, Box<Ast>, Box<Ast>),
    Sum(Sum, Box<Ast>, Box<Ast>),
    If(Box<Ast>, Box<Ast>, Box<Ast>),
    Like(Box<Ast>, Vec<Pattern>),
    Method(Box<Ast>, String, Vec<Ast>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sum {
    Plus,
    Minus,
    Times,
}

/// A part of the pattern of `like`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pattern {
    Character(char),
    Anything,
}

/// How deep parts may lie in each other; the parser goes as deep itself.
const DEEPEST: usize = 24;
/// Cedar allows no more of `!` or `-` in a row.
const MOST_UNARY: usize = 4;
const RESERVED: [&str; 10] = [
    "true", "false", "if", "then", "else", "in", "is", "like", "has", "__cedar",
];

pub(super) fn expression(text: &str) -> Result<Ast, ConditionError> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        next: 0,
        depth: 0,
    };
    let whole = parser.expression()?;
    match parser.peek() {
        Token::End => Ok(whole),
        _ => Err(parser.unexpected("the end, && or ||")),
    }
}

struct Parser<'t> {
    tokens: Vec<Placed<'t>>,
    next: usize,
    depth: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> &Token<'t> {
        self.tokens.get(self.next).map_or(&Token::End, |(_, token)| token)
    }

    fn at(&self) -> usize {
        let placed = self.tokens.get(self.next).or(self.tokens.last());
        placed.map_or(0, |(at, _)| *at)
    }

    fn take(&mut self) -> Token<'t> {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn sign(&mut self, sign: &str) -> bool {
        let there = matches!(self.peek(), Token::Sign(one) if *one == sign);
        self.next += usize::from(there);
        there
    }

    fn word(&mut self, word: &str) -> bool {
        let there = matches!(self.peek(), Token::Word(one) if *one == word);
        self.next += usize::from(there);
        there
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), ConditionError> {
        if self.sign(sign) {
            Ok(())
        } else {
            Err(self.unexpected(sign))
        }
    }

    fn unexpected(&self, wanted: &str) -> ConditionError {
        let found = match self.peek() {
            Token::Word(word) => format!("'{word}'"),
            Token::Number(number) => format!("'{number}'"),
            Token::Text(_) => "a text".to_owned(),
            Token::Sign(sign) => format!("'{sign}'"),
            Token::End => "the end".to_owned(),
        };
        ConditionError::new(self.at(), format!("{found} where {wanted} was expected"))
    }

    fn expression(&mut self) -> Result<Ast, ConditionError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            let problem = format!("parts lie more than {DEEPEST} deep in each other");
            return Err(ConditionError::new(self.at(), problem));
        }
        let at = self.at();
        let parsed = if self.word("if") {
            let condition = self.boxed(Self::expression)?;
            self.keyword("then")?;
            let then = self.boxed(Self::expression)?;
            self.keyword("else")?;
            let otherwise = self.boxed(Self::expression)?;
            Ast {
                at,
                node: Node::If(condition, then, otherwise),
            }
        } else {
            self.either()?
        };
        self.depth -= 1;
        Ok(parsed)
    }

    fn keyword(&mut self, word: &'static str) -> Result<(), ConditionError> {
        if self.word(word) {
            Ok(())
        } else {
            Err(self.unexpected(word))
        }
    }

    fn boxed(&mut self, part: impl Fn(&mut Self) -> Result<Ast, ConditionError>) -> Result<Box<Ast>, ConditionError> {
        part(self).map(Box::new)
    }

    fn either(&mut self) -> Result<Ast, ConditionError> {
        self.chain("||", Self::both, Node::Or)
    }

    fn both(&mut self) -> Result<Ast, ConditionError> {
        self.chain("&&", Self::relation, Node::And)
    }

    fn chain(
        &mut self,
        sign: &str,
        part: impl Fn(&mut Self) -> Result<Ast, ConditionError>,
        joined: impl Fn(Box<Ast>, Box<Ast>) -> Node,
    ) -> Result<Ast, ConditionError> {
        let mut left = part(self)?;
        while self.sign(sign) {
            let right = part(self)?;
            left = Ast {
                at: left.at,
                node: joined(Box::new(left), Box::new(right)),
            };
        }
        Ok(left)
    }

    fn relation(&mut self) -> Result<Ast, ConditionError> {
        const SIGNS: [(&str, Relation); 6] = [
            ("==", Relation::Equal),
            ("!=", Relation::NotEqual),
            ("<=", Relation::LessOrEqual),
            (">=", Relation::GreaterOrEqual),
            ("<", Relation::Less),
            (">", Relation::Greater),
        ];
        if let Some(has) = self.has()? {
            return Ok(has);
        }
        let left = self.sum()?;
        let at = left.at;
        let relation = SIGNS.into_iter().find(|(sign, _)| self.sign(sign));
        if let Some((_, relation)) = relation {
            let right = self.boxed(Self::sum)?;
            let node = Node::Relation(relation, Box::new(left), right);
            return Ok(Ast { at, node });
        }
        if self.word("like") {
            let pattern = self.pattern()?;
            let node = Node::Like(Box::new(left), pattern);
            return Ok(Ast { at, node });
        }
        if matches!(self.peek(), Token::Word("in" | "is")) {
            let problem = "entities are not part of a condition: compare with ==, or ask a set whether it contains";
            return Err(ConditionError::new(self.at(), problem));
        }
        Ok(left)
    }

    /// `context has NAME`, if that is what comes.
    fn has(&mut self) -> Result<Option<Ast>, ConditionError> {
        let (begin, at) = (self.next, self.at());
        if !(self.word("context") && self.word("has")) {
            self.next = begin;
            return Ok(None);
        }
        let name = match self.take() {
            Token::Word(name) if !RESERVED.contains(&name) => name.to_owned(),
            Token::Text(raw) => text(raw, at)?,
            _ => {
                self.next -= 1;
                return Err(self.unexpected("the name of an attribute"));
            }
        };
        let node = Node::Has(name);
        Ok(Some(Ast { at, node }))
    }

    fn pattern(&mut self) -> Result<Vec<Pattern>, ConditionError> {
        let at = self.at();
        let Token::Text(raw) = self.take() else {
            self.next -= 1;
            return Err(self.unexpected("a text"));
        };
        let characters = unescaped(raw, at)?;
        let part = |(c, escaped)| match (c, escaped) {
            ('*', false) => Pattern::Anything,
            (c, _) => Pattern::Character(c),
        };
        Ok(characters.into_iter().map(part).collect())
    }

    fn sum(&mut self) -> Result<Ast, ConditionError> {
        let mut left = self.product()?;
        loop {
            let sign = if self.sign("+") {
                Sum::Plus
            } else if self.sign("-") {
                Sum::Minus
            } else {
                return Ok(left);
            };
            let right = self.product()?;
            left = Ast {
                at: left.at,
                node: Node::Sum(sign, Box::new(left), Box::new(right)),
            };
        }
    }

    fn product(&mut self) -> Result<Ast, ConditionError> {
        self.chain("*", Self::unary, |left, right| Node::Sum(Sum::Times, left, right))
    }

    fn unary(&mut self) -> Result<Ast, ConditionError> {
        let at = self.at();
        let sign = ["!", "-"].into_iter().find(|sign| self.sign(sign));
        let Some(sign) = sign else { return self.member() };
        let mut count = 1;
        while self.sign(sign) {
            count += 1;
        }
        if count > MOST_UNARY {
            let problem = format!("more than {MOST_UNARY} of '{sign}' in a row");
            return Err(ConditionError::new(at, problem));
        }
        let wrap: fn(Box<Ast>) -> Node = if sign == "!" { Node::Not } else { Node::Negative };
        let mut inner = self.member()?;
        for _ in 0..count {
            let node = wrap(Box::new(inner));
            inner = Ast { at, node };
        }
        Ok(inner)
    }

    fn member(&mut self) -> Result<Ast, ConditionError> {
        let mut of = self.primary()?;
        while self.sign(".") {
            let at = self.at();
            let Token::Word(name) = self.take() else {
                self.next -= 1;
                return Err(self.unexpected("a name"));
            };
            if !self.sign("(") {
                let problem = format!("'{name}' is no method; there are contains, containsAll, containsAny, isEmpty");
                return Err(ConditionError::new(at, problem));
            }
            let arguments = self.list(")")?;
            let node = Node::Method(Box::new(of), name.to_owned(), arguments);
            of = Ast { at, node };
        }
        Ok(of)
    }

    fn list(&mut self, end: &'static str) -> Result<Vec<Ast>, ConditionError> {
        let mut parts = Vec::new();
        if self.sign(end) {
            return Ok(parts);
        }
        loop {
            parts.push(self.expression()?);
            if self.sign(end) {
                return Ok(parts);
            }
            self.expect(",")?;
        }
    }

    fn primary(&mut self) -> Result<Ast, ConditionError> {
        let at = self.at();
        let node = match self.take() {
            Token::Word("true") => Node::Bool(true),
            Token::Word("false") => Node::Bool(false),
            Token::Word("context") => self.attribute()?,
            Token::Number(digits) => match digits.parse() {
                Ok(number) => Node::Long(number),
                Err(_) => return Err(ConditionError::new(at, format!("{digits} is too large for a Long"))),
            },
            Token::Text(raw) => Node::Text(text(raw, at)?),
            Token::Sign("(") => {
                let inner = self.expression()?;
                self.expect(")")?;
                return Ok(inner);
            }
            Token::Sign("[") => Node::Set(self.list("]")?),
            Token::Word(name @ ("principal" | "action" | "resource")) => {
                let problem =
                    format!("{name} is not part of a condition: all that may be asked is an attribute of context");
                return Err(ConditionError::new(at, problem));
            }
            _ => {
                self.next -= 1;
                return Err(self.unexpected("a value"));
            }
        };
        Ok(Ast { at, node })
    }

    /// What follows `context`: `.NAME` or `["NAME"]`.
    fn attribute(&mut self) -> Result<Node, ConditionError> {
        let at = self.at();
        if self.sign(".") {
            return match self.take() {
                Token::Word(name) if !RESERVED.contains(&name) => Ok(Node::Attribute(name.to_owned())),
                _ => {
                    self.next -= 1;
                    Err(self.unexpected("the name of an attribute"))
                }
            };
        }
        if self.sign("[") {
            let Token::Text(raw) = self.take() else {
                self.next -= 1;
                return Err(self.unexpected("the name of an attribute in quotes"));
            };
            let name = text(raw, at)?;
            self.expect("]")?;
            return Ok(Node::Attribute(name));
        }
        Err(self.unexpected(".NAME, or has NAME"))
    }
}

fn text(raw: &str, at: usize) -> Result<String, ConditionError> {
    let characters = unescaped(raw, at)?;
    // Outside of a pattern there is no such escape.
    if characters.contains(&('*', true)) {
        return Err(ConditionError::new(at, "\\* is an escape only in the pattern of like"));
    }
    Ok(characters.into_iter().map(|(c, _)| c).collect())
}
