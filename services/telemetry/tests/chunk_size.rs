//! What a sample costs at rest.

use meridian_telemetry::domain::chunk;
use meridian_telemetry::synthetic::Ride;

#[test]
fn a_sample_of_an_hours_ride_costs_at_most_twelve_bytes() {
    for batch in [10, 60, 600, 3600] {
        let (mut bytes, mut samples) = (0, 0);
        for seed in 0..4 {
            let ride = Ride::outdoors(seed, 1_760_000_000_000).ride();
            for part in ride.samples.chunks(batch) {
                bytes += chunk::encode(part).expect("a batch").len();
                samples += part.len();
            }
        }
        let each = f64::from(u32::try_from(bytes).expect("small")) / f64::from(u32::try_from(samples).expect("small"));
        eprintln!("batches of {batch}: {each:.2} bytes per sample");
        assert!(batch < 600 || each <= 12.0, "{each}");
    }
}
