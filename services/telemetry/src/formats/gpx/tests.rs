use proptest::prelude::*;

use super::*;

fn track(points: &str) -> String {
    format!(
        r#"<?xml version="1.0"?><gpx creator="Test" xmlns="http://www.topografix.com/GPX/1/1" xmlns:e="urn:e"><trk><type>Running</type><trkseg>{points}</trkseg></trk></gpx>"#
    )
}

fn point(inner: &str) -> String {
    track(&format!(
        r#"<trkpt lat="45" lon="-11.25"><time>2026-05-01T06:00:00Z</time>{inner}</trkpt>"#
    ))
}

fn one(text: &str) -> Sample {
    read(text.as_bytes()).expect("a good file").samples[0]
}

#[test]
fn extensions_of_every_family_are_read() {
    for (family, extension) in [
        (
            "Garmin v1",
            "<e:TrackPointExtension><e:atemp>21.5</e:atemp><e:hr>142</e:hr><e:cad>88</e:cad></e:TrackPointExtension><e:PowerInWatts>250</e:PowerInWatts>",
        ),
        (
            "Garmin power",
            "<e:PowerExtension><e:PowerInWatts>250</e:PowerInWatts></e:PowerExtension><e:hr>142</e:hr><e:cad>88</e:cad><e:atemp>21.5</e:atemp>",
        ),
        (
            "Strava",
            "<power>250</power><e:TrackPointExtension><e:hr>142</e:hr><e:cad>88</e:cad><e:atemp>21.5</e:atemp></e:TrackPointExtension>",
        ),
        (
            "ClueTrust",
            "<e:hr>142</e:hr><e:cadence>88</e:cadence><e:temp>21.5</e:temp><e:power>250</e:power>",
        ),
        (
            "bare",
            "<heartrate>142</heartrate><cadence>88</cadence><temp>21.5</temp><power>250.0</power>",
        ),
    ] {
        let sample = one(&point(&format!(
            "<ele>520.25</ele><extensions>{extension}</extensions>"
        )));
        let measured = sample.measured();
        assert_eq!(
            (
                measured.heart_rate,
                measured.cadence,
                measured.power,
                measured.temperature,
                measured.altitude
            ),
            (Some(142.0), Some(88.0), Some(250.0), Some(21.5), Some(520.25)),
            "{family}"
        );
        assert_eq!((measured.lat, measured.lon), (Some(45.0), Some(-11.25)));
    }
}

#[test]
fn version_2_and_version_1_0_carry_speed() {
    let garmin = "<extensions><e:TrackPointExtension><e:speed>3.25</e:speed></e:TrackPointExtension></extensions>";
    assert_eq!(one(&point(garmin)).speed_mm_s, Some(3250));
    assert_eq!(one(&point("<speed>3.25</speed>")).speed_mm_s, Some(3250));
}

#[test]
fn the_track_names_its_sport_and_its_device() {
    let recording = read(point("").as_bytes()).expect("a good file");
    assert_eq!(
        (recording.sport.as_deref(), recording.device.as_deref()),
        (Some("running"), Some("Test"))
    );
    assert_eq!(sport("1"), Some("cycling".to_owned()));
    assert_eq!(sport("17"), None);
    assert_eq!(sport("ride\u{301}"), None);
}

#[test]
fn times_may_have_fractions_zones_or_none() {
    for time in [
        "2026-05-01T06:00:00.250Z",
        "2026-05-01T08:00:00.250+02:00",
        "2026-05-01T06:00:00.250",
    ] {
        let text = track(&format!(r#"<trkpt lat="1" lon="1"><time>{time}</time></trkpt>"#));
        assert_eq!(one(&text).time_ms, 1_777_615_200_250, "{time}");
    }
}

#[test]
fn empty_values_are_not_measured_and_impossible_ones_left_out() {
    let recording =
        read(point("<ele/><extensions><e:hr>900</e:hr><e:cad></e:cad></extensions>").as_bytes()).expect("a good file");
    assert_eq!(recording.samples[0].altitude_mm, None);
    assert_eq!(
        (recording.samples[0].heart_rate, recording.mended.implausible),
        (None, 1)
    );
}

#[test]
fn broken_values_are_named_by_element_and_place() {
    for (text, element) in [
        (track(r#"<trkpt lon="1"></trkpt>"#), "lat"),
        (track(r#"<trkpt lat="1" lon="inf"></trkpt>"#), "lon"),
        (point("<ele>high</ele>"), "ele"),
        (point("<extensions><e:hr>NaN</e:hr></extensions>"), "hr"),
        (
            track(r#"<trkpt lat="1" lon="1"><time>yesterday</time></trkpt>"#),
            "time",
        ),
        (point(&format!("<ele>{}</ele>", "1".repeat(300))), "ele"),
    ] {
        let error = read(text.as_bytes()).expect_err("must be refused");
        let GpxError::Value {
            offset, element: named, ..
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!(named, element);
        assert!((100..text.len()).contains(&offset));
    }
}

#[test]
fn plans_are_not_recordings() {
    assert_eq!(
        read(track(r#"<trkpt lat="1" lon="1"/>"#).as_bytes()),
        Err(GpxError::NoTime)
    );
    assert_eq!(read(track("").as_bytes()), Err(GpxError::NoPoints));
    let route =
        r#"<gpx><wpt lat="1" lon="1"><time>2026-05-01T06:00:00Z</time></wpt><rte><rtept lat="1" lon="1"/></rte></gpx>"#;
    assert_eq!(read(route.as_bytes()), Err(GpxError::NoPoints));
    assert_eq!(read(b"<kml/>"), Err(GpxError::NotGpx));
    assert_eq!(read(b""), Err(GpxError::NotGpx));
    assert_eq!(read(b"<gpx/><gpx/>"), Err(GpxError::NotGpx));
}

#[test]
fn points_without_a_time_take_their_neighbours() {
    let timed = |second| format!(r#"<trkpt lat="1" lon="1"><time>2026-05-01T06:00:0{second}Z</time></trkpt>"#);
    let untimed = r#"<trkpt lat="1" lon="1"/>"#;
    let recording = read(track(&[untimed, &timed(1), untimed, &timed(3)].concat()).as_bytes()).expect("a good file");
    let seconds: Vec<_> = recording
        .samples
        .iter()
        .map(|sample| sample.time_ms / 1000 % 60)
        .collect();
    assert_eq!((seconds.as_slice(), recording.mended.untimed), (&[1, 1, 1, 3][..], 2));
}

#[test]
fn an_entity_bomb_is_refused_before_it_is_lit() {
    let bomb = r#"<?xml version="1.0"?><!DOCTYPE gpx [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><gpx><trk><name>&b;</name></trk></gpx>"#;
    assert_eq!(read(bomb.as_bytes()), Err(GpxError::Entity { offset: 21 }));
    assert!(matches!(
        read(point("<ele>&b;</ele>").as_bytes()),
        Err(GpxError::Entity { .. })
    ));
    assert_eq!(
        one(&point("<ele>1&#48;&#x30;</ele>")).altitude_mm,
        Some(100_000),
        "character references are fine"
    );
}

#[test]
fn depth_is_bounded() {
    let deep = format!("<gpx>{}", "<a>".repeat(1_000_000));
    assert!(matches!(read(deep.as_bytes()), Err(GpxError::TooDeep { .. })));
    let wide = format!(
        "<gpx {}/>",
        (0..200_000).map(|index| format!("a{index}='1' ")).collect::<String>()
    );
    assert_eq!(read(wide.as_bytes()), Err(GpxError::NoPoints));
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let file = point("<ele>520.25</ele><extensions><e:hr>142</e:hr></extensions>");
    for length in 0..file.len() {
        assert!(read(&file.as_bytes()[..length]).is_err(), "{length}");
    }
}

#[test]
fn other_encodings_and_broken_xml_are_named_by_their_place() {
    assert_eq!(read(b"<gpx>\xff</gpx>"), Err(GpxError::NotUtf8 { offset: 5 }));
    assert!(matches!(
        read(b"<gpx><trk></gpx>"),
        Err(GpxError::NotXml { offset: 10.., .. })
    ));
    let with_mark = [b"\xef\xbb\xbf", point("").as_bytes()].concat();
    assert_eq!(read(&with_mark).expect("a good file").samples.len(), 1);
}

#[cfg(feature = "synthetic")]
#[test]
fn a_written_ride_reads_back() {
    use crate::synthetic::gpx::{Extension, write};
    let samples = crate::synthetic::Ride::outdoors(4, 1_760_000_000_000)
        .lasting(300)
        .ride()
        .samples;
    for (extension, speed, distance, power) in [
        (Extension::GarminV1, false, false, true),
        (Extension::GarminV2, true, false, true),
        (Extension::ClueTrust, false, true, false),
    ] {
        let read = read(&write(&samples, extension)).expect("a good file").samples;
        let expected: Vec<_> = samples
            .iter()
            .map(|sample| Sample {
                speed_mm_s: sample.speed_mm_s.filter(|_| speed),
                distance_tenth_mm: sample.distance_tenth_mm.filter(|_| distance),
                power: sample.power.filter(|_| power),
                ..*sample
            })
            .collect();
        assert_eq!(read, expected, "{extension:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_damage_makes_it_panic(at in prop::collection::vec((any::<usize>(), any::<u8>()), 1..8)) {
        let mut file = point("<ele>520.25</ele><extensions><e:hr>142</e:hr></extensions>").into_bytes();
        for (index, byte) in at {
            let index = index % file.len();
            file[index] = byte;
        }
        let _ = read(&file);
    }
}
