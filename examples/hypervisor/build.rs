//! Links the programs where the emulator puts them.

fn main() {
    let variable = |name| std::env::var(name).expect("cargo sets it");
    let folder = variable("CARGO_MANIFEST_DIR");
    let script = format!("{folder}/src/{}/link.ld", variable("CARGO_CFG_TARGET_ARCH"));
    println!("cargo:rustc-link-arg-bins=-T{script}");
    // Both programs stand at one address; the target's own default is a program that could stand anywhere.
    println!("cargo:rustc-link-arg-bins=--no-pie");
    println!("cargo:rerun-if-changed={script}");
}
