//! What the fuzz targets do, with their seeds and with what is made of these at random.

use std::{fs, path::Path};

use proptest::{prelude::*, sample::Index};

#[expect(unreachable_pub, reason = "it is a library of its own to the fuzz targets")]
mod targets;

type Target = fn(&[u8]);

/// The targets, each under the name of the folder of its seeds.
const TARGETS: [(&str, Target); 3] = [
    ("json", targets::decode_json),
    ("msgpack", targets::decode_msgpack),
    ("types", targets::read_type),
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    let entries = fs::read_dir(folder).expect("every target has seeds");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("it can be read")).collect()
}

/// One small damage to an input.
#[derive(Clone, Debug)]
enum Damage {
    Set(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Repeat(Index, Index),
    Cut(Index),
}

impl Damage {
    fn any() -> impl Strategy<Value = Self> {
        let byte = prop_oneof![any::<u8>(), proptest::sample::select(&b"[]{}\",:\\-0e\n"[..])];
        prop_oneof![
            (any::<Index>(), byte.clone()).prop_map(|(at, byte)| Self::Set(at, byte)),
            (any::<Index>(), byte).prop_map(|(at, byte)| Self::Insert(at, byte)),
            any::<Index>().prop_map(Self::Remove),
            any::<(Index, Index)>().prop_map(|(from, to)| Self::Repeat(from, to)),
            any::<Index>().prop_map(Self::Cut),
        ]
    }

    fn apply(&self, input: &mut Vec<u8>) {
        if input.is_empty() {
            return;
        }
        let length = input.len();
        match self {
            Self::Set(at, byte) => input[at.index(length)] = *byte,
            Self::Insert(at, byte) => input.insert(at.index(length), *byte),
            Self::Remove(at) => drop(input.remove(at.index(length))),
            Self::Repeat(from, to) => {
                let (from, to) = (from.index(length), to.index(length));
                let part = input[from.min(to)..from.max(to)].to_vec();
                input.splice(to..to, part);
            }
            Self::Cut(at) => input.truncate(at.index(length)),
        }
    }
}

#[test]
fn every_target_takes_its_seeds() {
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name}");
        seeds.iter().for_each(|seed| target(seed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 5_000,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn every_target_takes_damaged_seeds(
        seed in any::<Index>(),
        damages in proptest::collection::vec(Damage::any(), 1..6),
    ) {
        for (name, target) in TARGETS {
            let seeds = seeds(name);
            let mut input = seeds[seed.index(seeds.len())].clone();
            damages.iter().for_each(|damage| damage.apply(&mut input));
            target(&input);
        }
    }

    #[test]
    fn every_target_takes_anything(
        ty in proptest::sample::select(&["", "\"dynamic\"\n", "[\"list\",\"number\"]\n"][..]),
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let input = [ty.as_bytes(), &bytes].concat();
        TARGETS.iter().for_each(|(_, target)| target(&input));
    }
}
