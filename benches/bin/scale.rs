//! How costs grow: `stage2_benches::scale`.

fn main() {
    stage2_benches::scale::main();
}
