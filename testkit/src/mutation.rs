//! Bytes that go wrong: a target is run over a corpus, and over what becomes of it by changes that
//! a decoder has to bear. It takes no tool and no special build; `cargo fuzz` with its view of the
//! code goes deeper, over the same targets and the same corpus.

use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs, panic};

/// What a run did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Inputs of the corpus.
    pub corpus: usize,
    /// Inputs that were made of them.
    pub mutations: u64,
}

/// How many mutations a run makes, however short its time is on a busy machine.
const MUTATIONS_MIN: u64 = 100;
/// How long one input may take before it counts as endless.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a target over every file of a folder, and for a time over mutations of them, of which there
/// are a hundred at least.
///
/// The time is `HEADWATER_FUZZ_SECONDS`, or half a second; `HEADWATER_FUZZ_SEED` begins elsewhere.
///
/// # Panics
///
/// If the target does, or takes more than ten seconds: the input is written to a file of the system's
/// temporary directory first, and named. If the folder holds no file.
pub fn run(corpus: &Path, target: impl Fn(&[u8])) -> Run {
    let number = |name| env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    let seconds = number("HEADWATER_FUZZ_SECONDS").map(Duration::from_secs);
    let seed = number("HEADWATER_FUZZ_SEED").unwrap_or(1);
    let inputs = read(corpus);
    for input in &inputs {
        attempt(&target, input);
    }
    let end = Instant::now() + seconds.unwrap_or(Duration::from_millis(500));
    let (mut dice, mut mutations) = (Dice(seed), 0);
    while mutations < MUTATIONS_MIN || Instant::now() < end {
        attempt(&target, &mutated(&inputs, &mut dice));
        mutations += 1;
    }
    Run { corpus: inputs.len(), mutations }
}

/// Reads the corpus, in the order of its names.
fn read(corpus: &Path) -> Vec<Vec<u8>> {
    let listed = fs::read_dir(corpus).map(|entries| entries.flatten().map(|entry| entry.path()));
    let mut paths: Vec<_> = listed.into_iter().flatten().collect();
    paths.sort();
    let inputs: Vec<_> = paths.iter().filter_map(|path| fs::read(path).ok()).collect();
    assert!(!inputs.is_empty(), "{} holds no input", corpus.display());
    inputs
}

fn attempt(target: &impl Fn(&[u8]), input: &[u8]) {
    let begun = Instant::now();
    let ended = panic::catch_unwind(panic::AssertUnwindSafe(|| target(input)));
    let took = begun.elapsed();
    if ended.is_ok() && took < PATIENCE {
        return;
    }
    let path = env::temp_dir().join(format!("headwater-fuzz-{}", std::process::id()));
    let kept = fs::write(&path, input)
        .map_or_else(|error| error.to_string(), |()| path.display().to_string());
    eprintln!("{} bytes took {took:.1?}; they are in {kept}", input.len());
    match ended {
        Err(cause) => panic::resume_unwind(cause),
        Ok(()) => panic!("it took {took:.1?}"),
    }
}

/// Numbers that look random and are the same for the same seed (splitmix64, Steele et al., 2014).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below a bound, which is not zero.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("less than a usize")
    }
}

/// Makes an input of the corpus into another one, by one to four changes.
fn mutated(inputs: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = inputs[dice.below(inputs.len())].clone();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        let rest = bytes.len() - at;
        match dice.below(8) {
            0 => bytes.truncate(at),
            1 if rest > 0 => bytes[at] ^= 1 << dice.below(8),
            2 if rest > 0 => bytes[at] = dice.next().to_le_bytes()[0],
            3 => overwrite(&mut bytes[at..], &number(dice, rest)),
            4 => {
                let len = dice.below(rest.min(64) + 1);
                bytes.drain(at..at + len);
            }
            5 => {
                let len = dice.below(rest.min(256) + 1);
                let copy = bytes[at..at + len].to_vec();
                let to = dice.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            6 => {
                let other = &inputs[dice.below(inputs.len())];
                let from = dice.below(other.len() + 1);
                let len = dice.below((other.len() - from).min(512) + 1);
                overwrite(&mut bytes[at..], &other[from..from + len]);
            }
            _ => {
                let len = dice.below(rest.min(512) + 1);
                bytes[at..at + len].fill(0);
            }
        }
    }
    bytes
}

/// A number as formats have them, of 2, 4 or 8 bytes, at the edge of something.
fn number(dice: &mut Dice, rest: usize) -> Vec<u8> {
    let edges = [0, 1, rest as u64, u64::MAX, 1 << 31, i64::MAX.unsigned_abs(), dice.next()];
    let edge = edges[dice.below(edges.len())];
    let near = edge.wrapping_add(dice.next() % 3).wrapping_sub(1);
    near.to_le_bytes()[..[2, 4, 8][dice.below(3)]].to_vec()
}

fn overwrite(bytes: &mut [u8], with: &[u8]) {
    let len = bytes.len().min(with.len());
    bytes[..len].copy_from_slice(&with[..len]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_fails_deep_inside_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("seed"), *b"HW\x01\x00rest").expect("a file");
        let found = panic::catch_unwind(|| {
            run(dir.path(), |bytes| {
                let deep = bytes.starts_with(b"HW") && bytes.get(2..4) == Some(&[0xFF, 0xFF]);
                assert!(!deep, "reached");
            })
        });
        assert!(found.is_err());
        let run = run(dir.path(), |bytes| assert!(bytes.len() < 10_000));
        assert!(run.corpus == 1 && run.mutations > 1000);
    }
}
