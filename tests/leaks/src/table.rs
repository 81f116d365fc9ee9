//! How a row of the table of leak paths is attempted: once with each of its layers alone, and once with none.

use std::io::Write as _;

/// Which layer stands while an attempt is made; the others are off in the world of that attempt.
#[derive(Clone, Copy, Debug)]
pub struct On(Option<&'static str>);

impl On {
    /// Whether this layer stands.
    pub fn has(self, layer: &str) -> bool {
        self.0 == Some(layer)
    }
}

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leak {
    /// The canary was found where it should not be.
    Seen,
    /// It was not.
    Held,
}

impl Leak {
    /// By whether the canary was found.
    pub fn by(seen: bool) -> Self {
        if seen { Self::Seen } else { Self::Held }
    }
}

/// Attempts a leak with each layer alone, which must hold, and with all of them off, which must be seen: otherwise nobody
/// knows that the attempt is one. Prints a line for each.
pub async fn leak(path: &str, layers: &[&'static str], attempt: impl AsyncFn(On) -> Leak) {
    let mut wrong = Vec::new();
    let runs = layers.iter().map(|layer| (Some(*layer), Leak::Held));
    for (layer, expected) in runs.chain([(None, Leak::Seen)]) {
        let came_to = attempt(On(layer)).await;
        let what = match layer {
            Some(layer) => format!("layer {layer} alone"),
            None => "all off".to_owned(),
        };
        let said = match came_to {
            Leak::Seen => "seen",
            Leak::Held => "held",
        };
        let alone = if layers.len() == 1 && layer.is_some() {
            " (its only layer)"
        } else {
            ""
        };
        let line = format!("leak {path} | {what} | {said}{alone}");
        say(&line);
        if came_to != expected {
            wrong.push(line);
        }
    }
    assert!(wrong.is_empty(), "not as it should be: {wrong:#?}");
}

/// Past the harness, which keeps to itself what a test prints that holds: the lines are what these tests are for.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(format!("{line}\n").as_bytes());
    let _ = out.flush();
}
