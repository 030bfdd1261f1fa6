//! How many instructions the operations take: `stage2_benches::counts`.

fn main() -> std::process::ExitCode {
    stage2_benches::counts::main()
}
