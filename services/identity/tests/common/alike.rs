//! Whether things can be told apart by the time that they take.

use std::time::{Duration, Instant};

/// How much more than the least the most may take.
const ALIKE: f64 = 1.15;
/// Rounds before anything is said, and before it is said that they are apart.
const ROUNDS: [usize; 2] = [15, 150];

/// Does them in turn until the quickest of each take about as long, and gives those where they never do. The quickest of many
/// is what the work itself takes, whatever else the machine does meanwhile: with more samples noise goes away, and a
/// difference of ours stays. Where the machine is so busy that no sample is free of it, two that seem apart are so only if
/// the slower one was slower in most of the rounds as well, which is what who asks would have to go by.
pub async fn told_apart<const CASES: usize>(act: impl AsyncFn(usize)) -> Option<[Duration; CASES]> {
    let mut rounds: Vec<[Duration; CASES]> = Vec::new();
    let mut quickest = [Duration::MAX; CASES];
    while rounds.len() < ROUNDS[1] {
        let mut round = [Duration::MAX; CASES];
        for turn in 0..CASES {
            // Each round begins with another case: what every other one costs, such as memory that the one before gave back,
            // is then in all of them.
            let case = (turn + rounds.len()) % CASES;
            let begun = Instant::now();
            act(case).await;
            round[case] = begun.elapsed();
            quickest[case] = quickest[case].min(round[case]);
        }
        rounds.push(round);
        let (least, most) = extremes(&quickest);
        if rounds.len() >= ROUNDS[0] && quickest[most].as_secs_f64() < quickest[least].as_secs_f64() * ALIKE {
            return None;
        }
    }
    let (least, most) = extremes(&quickest);
    let slower = rounds.iter().filter(|round| round[most] > round[least]).count();
    // By chance two thirds of 150 are passed once in 30,000 times.
    (slower * 3 > rounds.len() * 2).then_some(quickest)
}

/// Which took the least and which the most.
fn extremes(times: &[Duration]) -> (usize, usize) {
    let by_time = |case: &usize| times[*case];
    let cases = 0..times.len();
    (
        cases.clone().min_by_key(by_time).unwrap_or(0),
        cases.max_by_key(by_time).unwrap_or(0),
    )
}
