//! Files that come and go: the packed model is the one that `pack` makes of all of them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flashmill_pack::{
    Arrival, PackError, PackOptions, PackPlan, RecipeOptions, SHARDS, header_bytes, plan_arriving,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{bits, fixture, pack};

/// A model whose files hold their headers alone, and beside it the whole one; both in directories of the same name.
struct Hollow {
    dir: TempDir,
}

impl Hollow {
    fn of(name: &str) -> Hollow {
        let paths = fs::read_dir(fixture(name)).unwrap().map(|entry| entry.unwrap().path());
        let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        Hollow::new(&paths.map(|path| (name(&path), fs::read(path).unwrap())).collect())
    }

    fn new(files: &BTreeMap<String, Vec<u8>>) -> Hollow {
        let dir = tempfile::tempdir().unwrap();
        let hollow = Hollow { dir };
        fs::create_dir_all(hollow.source()).unwrap();
        fs::create_dir_all(hollow.whole()).unwrap();
        for (name, bytes) in files {
            fs::write(hollow.whole().join(name), bytes).unwrap();
            let is_weights = name.starts_with("model") && name.ends_with(".safetensors");
            let kept =
                if is_weights { header_bytes(bytes[..8].try_into().unwrap()) as usize } else { bytes.len() };
            let mut file = File::create(hollow.source().join(name)).unwrap();
            file.write_all(&bytes[..kept]).unwrap();
            file.set_len(bytes.len() as u64).unwrap();
        }
        hollow
    }

    /// Brings the files in the order that is asked for; how many went again.
    fn run(&self, plan: &PackPlan) -> usize {
        let paths = self.paths(plan);
        let mut arrival = begin(plan);
        let (n_held, mut held, mut n_gone) = (arrival.n_held(), 0, 0);
        for file in arrival.order().to_vec() {
            held += 1;
            assert!(held <= n_held, "{held} files at once, {n_held} promised");
            let gone = arrival.arrived(file, &paths[file]).unwrap().len();
            (held, n_gone) = (held - gone, n_gone + gone);
        }
        arrival.finish().unwrap();
        n_gone
    }

    fn source(&self) -> PathBuf {
        self.dir.path().join("hollow/model")
    }

    fn whole(&self) -> PathBuf {
        self.dir.path().join("whole/model")
    }

    fn plan(&self, out: &str, recipe: RecipeOptions) -> PackPlan {
        let out = self.dir.path().join(out);
        plan_arriving(PackOptions { source: self.source(), out, recipe, ..PackOptions::default() }).unwrap()
    }

    /// The files of a plan in whole, in its order.
    fn paths(&self, plan: &PackPlan) -> Vec<PathBuf> {
        plan.files().map(|path| self.whole().join(path.file_name().unwrap())).collect()
    }

    fn expected(&self, recipe: RecipeOptions) -> BTreeMap<String, Vec<u8>> {
        let out = self.dir.path().join("expected");
        pack(&self.whole(), &out, recipe).unwrap();
        files(&out)
    }
}

/// A run that has room.
fn begin(plan: &PackPlan) -> Arrival<'_> {
    let mut arrival = Arrival::begin(plan, &|_, _| ()).unwrap();
    arrival.take_room(0).unwrap();
    arrival
}

/// A fixture with its tensors, in the order of their names, in files of another number: `file_of` tells which.
fn dealt_out(name: &str, file_of: impl Fn(usize, &str) -> usize) -> BTreeMap<String, Vec<u8>> {
    let mut files = files(&fixture(name));
    let mut tensors = BTreeMap::new();
    for (_, bytes) in
        files.extract_if(.., |name, _| name.ends_with(".safetensors") && name.starts_with("model"))
    {
        let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..start]).unwrap();
        for (tensor, entry) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
            let at = |i: usize| start + entry["data_offsets"][i].as_u64().unwrap() as usize;
            let data = bytes[at(0)..at(1)].to_vec();
            tensors.insert(tensor, (entry, data));
        }
    }
    let mut shards: BTreeMap<usize, (serde_json::Map<String, Value>, Vec<u8>)> = BTreeMap::new();
    let mut map = serde_json::Map::new();
    for (i, (tensor, (entry, data))) in tensors.into_iter().enumerate() {
        let shard = file_of(i, &tensor);
        let (header, all) = shards.entry(shard).or_default();
        let place = [all.len(), all.len() + data.len()];
        let entry = json!({"dtype": entry["dtype"], "shape": entry["shape"], "data_offsets": place});
        all.extend(data);
        map.insert(tensor.clone(), format!("model-{shard}.safetensors").into());
        header.insert(tensor, entry);
    }
    for (shard, (header, data)) in shards {
        let header = Value::Object(header).to_string().into_bytes();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
        files.insert(format!("model-{shard}.safetensors"), bytes);
    }
    let index = json!({"weight_map": map}).to_string().into_bytes();
    files.insert("model.safetensors.index.json".to_owned(), index);
    files
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap()))
        .collect()
}

#[test]
fn files_in_any_order_make_the_same_model() {
    let hollow = Hollow::of("qwen3_5_moe");
    for recipe in [RecipeOptions::default(), bits(3)] {
        let expected = hollow.expected(recipe);
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let plan = hollow.plan("out", recipe);
            let paths = hollow.paths(&plan);
            let mut arrival = begin(&plan);
            assert_eq!((arrival.order(), arrival.n_held()), (&[0, 1, 2][..], SHARDS));
            let mut gone: Vec<usize> =
                order.iter().flat_map(|&file| arrival.arrived(file, &paths[file]).unwrap()).collect();
            gone.sort_unstable();
            assert_eq!(gone, [0, 1, 2], "each goes once");
            arrival.finish().unwrap();
            assert!(files(&hollow.dir.path().join("out")) == expected, "{order:?}");
            assert!(hollow.plan("out", recipe).already_packed().unwrap().is_some());
            fs::remove_dir_all(hollow.dir.path().join("out")).unwrap();
        }
        fs::remove_dir_all(hollow.dir.path().join("expected")).unwrap();
    }
}

#[test]
fn other_formats() {
    for name in ["qwen3_5_moe_mlx4", "qwen3_next", "qwen3_5_moe_gptq4"] {
        let hollow = Hollow::of(name);
        let expected = hollow.expected(bits(4));
        let plan = hollow.plan("out", bits(4));
        assert_eq!(hollow.run(&plan), hollow.paths(&plan).len(), "{name}");
        assert!(files(&hollow.dir.path().join("out")) == expected, "{name}");
    }
}

/// FP8 weights in three files and all their scales in a fourth, which comes second and stays to the end.
#[test]
fn scales_in_another_file() {
    let hollow =
        Hollow::new(&dealt_out(
            "qwen3_5_moe_fp8",
            |i, name| {
                if name.ends_with("_scale_inv") { 3 } else { i % 3 }
            },
        ));
    let expected = hollow.expected(bits(3));
    let plan = hollow.plan("out", bits(3));
    let arrival = begin(&plan);
    assert_eq!((arrival.order(), arrival.n_held()), (&[0, 3, 1, 2][..], SHARDS));
    drop(arrival);
    assert_eq!(hollow.run(&plan), 4);
    assert!(files(&hollow.dir.path().join("out")) == expected);
}

/// Every tensor of an FP8 model in the next of six files: a weight and its scales, and gate, up and down, are always apart. What
/// comes out is right, and how many files that takes is said.
#[test]
fn weights_all_over_the_place() {
    let hollow = Hollow::new(&dealt_out("qwen3_5_moe_fp8", |i, _| i % 6));
    let expected = hollow.expected(bits(4));
    let plan = hollow.plan("out", bits(4));
    let arrival = begin(&plan);
    let n_held = arrival.n_held();
    assert!(n_held <= 6 && arrival.order().len() == 6, "{n_held}");
    drop(arrival);
    assert_eq!(hollow.run(&plan), 6);
    assert!(files(&hollow.dir.path().join("out")) == expected);
}

/// A header that was damaged on its way is found out when its file is here whole.
#[test]
fn a_header_that_is_not_the_file_s() {
    let hollow = Hollow::of("qwen3_5_moe");
    let plan = hollow.plan("out", bits(4));
    let mut arrival = begin(&plan);
    let path = &hollow.paths(&plan)[1];
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(4).position(|word| word == b"BF16").unwrap();
    bytes[at..at + 4].copy_from_slice(b"F16 ");
    fs::write(path, bytes).unwrap();
    let error = arrival.arrived(1, path).unwrap_err();
    assert!(matches!(error, PackError::OtherHeader { .. }), "{error}");
    assert!(arrival.arrived(0, &hollow.paths(&plan)[0]).is_ok());
}

/// What a power failure took is done again, and no later flush of other files makes its lines believed: neither where bytes are
/// wrong that no flush vouched for, nor where a file is gone.
#[test]
fn what_was_lost_stays_lost_until_it_is_done_again() {
    let hollow = Hollow::of("qwen3_5_moe");
    let expected = hollow.expected(bits(4));
    let out = hollow.dir.path().join("out");
    let experts = out.join("experts-00000.safetensors");
    let bring = |files: &[usize]| {
        let plan = hollow.plan("out", bits(4));
        let mut arrival = begin(&plan);
        let order = arrival.order().to_vec();
        files.iter().for_each(|&file| drop(arrival.arrived(file, &hollow.paths(&plan)[file]).unwrap()));
        order
    };
    let damage = || {
        let journal = out.join("flashmill.journal");
        let lines = fs::read_to_string(&journal).unwrap();
        let unsynced = lines.split_inclusive('\n').filter(|line| !line.starts_with("synced "));
        fs::write(&journal, unsynced.collect::<String>()).unwrap();
        let mut bytes = fs::read(&experts).unwrap();
        bytes[4096 + 100] ^= 1;
        fs::write(&experts, bytes).unwrap();
    };
    let remove = || fs::remove_file(&experts).unwrap();
    for lose in [&damage as &dyn Fn(), &remove] {
        assert_eq!(bring(&[0]), [0, 1, 2]);
        assert_eq!(bring(&[]), [1, 2]);
        lose();
        assert_eq!(bring(&[1]), [0, 1, 2], "found out");
        assert_eq!(bring(&[]), [0, 2], "the flush of the second file vouches for nothing of the first");
        let plan = hollow.plan("out", bits(4));
        hollow.run(&plan);
        assert!(files(&out) == expected);
        fs::remove_dir_all(&out).unwrap();
    }
}

/// The fixture has gate and up of its last layer in one file and down in the next. A run that ends after the first goes on with
/// the second alone, and finds out if what it wrote before has changed.
#[test]
fn a_record_is_filled_in_pieces() {
    let hollow = Hollow::of("qwen3_5_moe");
    let expected = hollow.expected(bits(4));
    let bring = |plan: &PackPlan, file: usize| -> Result<Vec<usize>, PackError> {
        let mut arrival = begin(plan);
        assert!(arrival.order().contains(&file), "{:?}", arrival.order());
        arrival.arrived(file, &hollow.paths(plan)[file])
    };
    let plan = hollow.plan("out", bits(4));
    assert_eq!(bring(&plan, 0).unwrap(), [0]);
    assert_eq!(bring(&plan, 1).unwrap(), [1]);
    let arrival = begin(&plan);
    assert_eq!(arrival.order(), [2]);
    drop(arrival);
    assert!(!hollow.dir.path().join("out/flashmill.json").exists());

    let path = hollow.dir.path().join("out/experts-00003.safetensors");
    let whole = fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    // In the gate of expert 0, which the journal vouches for.
    damaged[4096 + 100] ^= 1;
    fs::write(&path, damaged).unwrap();
    let error = bring(&plan, 2).unwrap_err().to_string();
    assert!(error.contains("experts-00003.safetensors") && error.contains("check the disk"), "{error}");
    fs::write(&path, whole).unwrap();

    let mut arrival = begin(&plan);
    assert_eq!(arrival.arrived(2, &hollow.paths(&plan)[2]).unwrap(), [2]);
    arrival.finish().unwrap();
    assert!(files(&hollow.dir.path().join("out")) == expected);
}
