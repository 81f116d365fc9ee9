//! What a file turns out to hold.

use super::sample::Sample;

/// Most samples of one file: three times the longest that was seen in the wild (396,000).
pub const MAX_SAMPLES: usize = 1_200_000;

/// A recorded activity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recording {
    /// One sample per record of the file, by time; those of one moment in the file's order.
    pub samples: Vec<Sample>,
    /// The sport as the file names it, in kebab-case: `cycling`, `cross-country-skiing`.
    pub sport: Option<String>,
    /// The recording device as it names itself.
    pub device: Option<String>,
    /// The device's own totals.
    pub totals: DeviceTotals,
    /// What was mended on the way.
    pub mended: Mended,
}

/// Totals that a device writes at the end of an activity, summed over the activities of one file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeviceTotals {
    /// Seconds with the clock running.
    pub timer_sec: Option<f64>,
    /// Kilocalories.
    pub calories: Option<f64>,
}

/// Counts of what a file got wrong without being refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Records without a time, which took their predecessor's.
    pub untimed: u64,
    /// Records that came after a later one and were put in order.
    pub late: u64,
    /// Fields that were left out because no sensor can mean them.
    pub implausible: u64,
}

impl Recording {
    /// Puts the samples in order of time; those of one moment keep theirs.
    pub fn put_in_order(&mut self) {
        self.mended.late = self
            .samples
            .windows(2)
            .filter(|pair| pair[1].time_ms < pair[0].time_ms)
            .count() as u64;
        if self.mended.late > 0 {
            self.samples.sort_by_key(|sample| sample.time_ms);
        }
    }
}
