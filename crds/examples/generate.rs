//! Writes `crds/generated/*.yaml`, or with `--check` says whether they are what the types give.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let check = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => return failed(&format!("unknown argument '{other}'; the only one is --check")),
    };
    match run(check) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => failed(&sentence),
    }
}

#[expect(clippy::print_stderr, reason = "a command line tool says what is wrong on stderr")]
fn failed(sentence: &str) -> ExitCode {
    eprintln!("error: {sentence}");
    ExitCode::FAILURE
}

fn run(check: bool) -> Result<(), String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("generated");
    let mut expected = Vec::new();
    for crd in meridian_crds::all_crds() {
        let (file, text) =
            meridian_crds::to_yaml(&crd).map_err(|error| format!("a definition is not YAML: {error}"))?;
        let path = folder.join(&file);
        if check {
            let found = std::fs::read_to_string(&path).unwrap_or_default();
            if found != text {
                return Err(format!(
                    "crds/generated/{file} is not what the types give; run `cargo xtask crds`"
                ));
            }
        } else {
            std::fs::write(&path, text).map_err(|error| format!("crds/generated/{file} cannot be written: {error}"))?;
        }
        expected.push(file);
    }
    let present = std::fs::read_dir(&folder).map_err(|error| format!("crds/generated cannot be read: {error}"))?;
    for entry in present.flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        if file.ends_with(".yaml") && !expected.contains(&file) {
            return Err(format!("crds/generated/{file} belongs to no type; remove it"));
        }
    }
    Ok(())
}
