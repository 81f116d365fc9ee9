//! Links the one binary with packed relocations: the loader reads all of them at every start, and they are 4 MiB of each
//! process's memory otherwise, 0.1 MiB so.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
