//! From text to tokens.

use super::ConditionError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token<'t> {
    Word(&'t str),
    Number(&'t str),
    /// What is between the quotes, escapes included: a pattern reads them otherwise than a text does.
    Text(&'t str),
    Sign(&'static str),
    End,
}

/// A token and where it begins, in characters.
pub(super) type Placed<'t> = (usize, Token<'t>);

/// Longer ones first.
const SIGNS: [&str; 22] = [
    "&&", "||", "==", "!=", "<=", ">=", "::", "<", ">", "!", "+", "-", "*", "(", ")", "[", "]", "{", "}", ",", ".", "@",
];

pub(super) fn tokens(text: &str) -> Result<Vec<Placed<'_>>, ConditionError> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        rest = blank_skipped(rest);
        let at = text[..text.len() - rest.len()].chars().count();
        let Some(first) = rest.chars().next() else {
            found.push((at, Token::End));
            return Ok(found);
        };
        let (token, length) = if first.is_ascii_alphabetic() || first == '_' {
            let length = length_of(rest, |c| c.is_ascii_alphanumeric() || c == '_');
            (Token::Word(&rest[..length]), length)
        } else if first.is_ascii_digit() {
            let length = length_of(rest, |c| c.is_ascii_digit());
            (Token::Number(&rest[..length]), length)
        } else if first == '"' {
            let inside = &rest[1..];
            let Some(length) = closing_quote(inside) else {
                return Err(ConditionError::new(
                    at,
                    "the text that begins here has no closing quote",
                ));
            };
            (Token::Text(&inside[..length]), length + 2)
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            (Token::Sign(sign), sign.len())
        } else {
            return Err(ConditionError::new(at, format!("'{first}' has no meaning here")));
        };
        found.push((at, token));
        rest = &rest[length..];
    }
}

/// Without white space and comments at its beginning.
fn blank_skipped(mut rest: &str) -> &str {
    loop {
        rest = rest.trim_start();
        if !rest.starts_with("//") {
            return rest;
        }
        rest = rest.split_once('\n').map_or("", |(_, after)| after);
    }
}

fn length_of(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c: char| !belongs(c)).unwrap_or(text.len())
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(index),
            _ => {}
        }
    }
    None
}

/// One character of a text, and whether it was escaped.
pub(super) fn unescaped(raw: &str, at: usize) -> Result<Vec<(char, bool)>, ConditionError> {
    let mut characters = Vec::new();
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            characters.push((c, false));
            continue;
        }
        let meant = match chars.next() {
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('0') => '\0',
            Some(c @ ('\\' | '"' | '\'' | '*')) => c,
            other => {
                let problem = format!(
                    "\\{} is no escape; allowed are \\\\ \\\" \\' \\n \\r \\t \\0",
                    other.unwrap_or(' ')
                );
                return Err(ConditionError::new(at, problem));
            }
        };
        characters.push((meant, true));
    }
    Ok(characters)
}
