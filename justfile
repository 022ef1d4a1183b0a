# What a developer does here; each line works without just, too.

# Format, lints and documentation
check:
    cargo fmt --check
    cargo clippy --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

# All tests, and before them what they need (the same as `bash tests/run`)
test:
    bash tests/run

# The storm once more, from its seed
sim SEED:
    FULMAR_STORM_SEED={{SEED}} cargo test --test storm -- --nocapture

# The crash test with more kills than in CI
crash KILLS="200":
    FULMAR_CRASH_KILLS={{KILLS}} cargo test --test crash -- --nocapture killed

# The benchmarks
bench:
    cargo bench

# The broker, optimised
run *ARGUMENTS:
    cargo run --release -- {{ARGUMENTS}}

# Licences and advisories of the dependencies (needs cargo-deny)
deny:
    cargo deny check
