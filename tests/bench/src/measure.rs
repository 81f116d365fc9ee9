//! What measurements come to. Pure.

/// The smallest measurement that at least `share` (0 to 1) of all are not above: the nearest-rank percentile, so it is one
/// that was really seen. None of nothing.
pub fn percentile(measured: &[f64], share: f64) -> Option<f64> {
    let mut sorted = measured.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank among measurements that fit into memory"
    )]
    let rank = (share.clamp(0.0, 1.0) * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// The middle measurement; of an even number, the mean of the two in the middle. None of nothing.
pub fn median(measured: &[f64]) -> Option<f64> {
    let mut sorted = measured.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(sorted.len() / 2 - 1)?;
    Some(f64::midpoint(lower, upper))
}

/// Two ways of doing the same, measured in turns (A B A B …), so that both see the same weather.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compared {
    /// Median of ours.
    pub ours: f64,
    /// Median of the peer's.
    pub peer: f64,
    /// Median of the ratios of each pair: what was slow for both in one turn counts for neither.
    pub ratio: f64,
}

/// Compares pairs of (ours, peer's). None of nothing, and where a peer took no time.
pub fn compare(pairs: &[(f64, f64)]) -> Option<Compared> {
    let (ours, peer): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let ratios: Vec<f64> = pairs.iter().map(|(ours, peer)| ours / peer).collect();
    let ratio = median(&ratios).filter(|ratio| ratio.is_finite())?;
    Some(Compared {
        ours: median(&ours)?,
        peer: median(&peer)?,
        ratio,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_measurement_by_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&hundred, 0.99), Some(99.0));
        assert_eq!(percentile(&hundred, 0.5), Some(50.0));
        assert_eq!(percentile(&hundred, 1.0), Some(100.0));
        assert_eq!(percentile(&hundred, 0.0), Some(1.0));
        assert_eq!(percentile(&[7.0], 0.99), Some(7.0));
        assert_eq!(percentile(&[], 0.99), None);
    }

    #[test]
    fn a_median_is_the_middle_or_between_the_two() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_turn_that_was_slow_for_both_does_not_move_the_ratio() {
        let compared = compare(&[(1.0, 2.0), (50.0, 100.0), (1.0, 2.0)]).unwrap();
        assert_eq!(compared.ratio, 0.5);
        assert_eq!((compared.ours, compared.peer), (1.0, 2.0));
        assert_eq!(compare(&[]), None);
        assert_eq!(compare(&[(1.0, 0.0)]), None);
    }
}
