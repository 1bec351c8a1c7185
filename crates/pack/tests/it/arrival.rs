//! Files that come and go: the packed model is the one that `pack` makes of all of them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flashmill_pack::{
    Arrival, PackError, PackOptions, PackPlan, RecipeOptions, SHARDS, header_bytes, plan_arriving,
};
use tempfile::TempDir;

use crate::support::{bits, fixture, pack};

/// A model whose files hold their headers alone, and beside it the whole one; both in directories of the same name.
struct Hollow {
    dir: TempDir,
}

impl Hollow {
    fn of(name: &str) -> Hollow {
        let dir = tempfile::tempdir().unwrap();
        let hollow = Hollow { dir };
        fs::create_dir_all(hollow.source()).unwrap();
        fs::create_dir_all(hollow.whole()).unwrap();
        for entry in fs::read_dir(fixture(name)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let name = path.file_name().unwrap();
            fs::write(hollow.whole().join(name), &bytes).unwrap();
            let is_weights = name.to_str().unwrap().starts_with("model-");
            let kept =
                if is_weights { header_bytes(bytes[..8].try_into().unwrap()) } else { bytes.len() as u64 };
            let mut file = File::create(hollow.source().join(name)).unwrap();
            file.write_all(&bytes[..kept as usize]).unwrap();
            file.set_len(bytes.len() as u64).unwrap();
        }
        hollow
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
            let mut arrival = Arrival::begin(&plan, 0, &|_, _| ()).unwrap();
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

/// In FP8 files a weight and its scales are two tensors; here one file holds all of it.
#[test]
fn other_formats() {
    for name in ["qwen3_5_moe_mlx4", "qwen3_next"] {
        let hollow = Hollow::of(name);
        let expected = hollow.expected(bits(4));
        let plan = hollow.plan("out", bits(4));
        let paths = hollow.paths(&plan);
        let mut arrival = Arrival::begin(&plan, 0, &|_, _| ()).unwrap();
        for file in arrival.order().to_vec() {
            arrival.arrived(file, &paths[file]).unwrap();
        }
        arrival.finish().unwrap();
        assert!(files(&hollow.dir.path().join("out")) == expected, "{name}");
    }
}

/// The fixture has gate and up of its last layer in one file and down in the next. A run that ends after the first goes on with
/// the second alone, and finds out if what it wrote before has changed.
#[test]
fn a_record_is_filled_in_pieces() {
    let hollow = Hollow::of("qwen3_5_moe");
    let expected = hollow.expected(bits(4));
    let begin = |plan: &PackPlan, file: usize| -> Result<Vec<usize>, PackError> {
        let mut arrival = Arrival::begin(plan, 0, &|_, _| ())?;
        assert!(arrival.order().contains(&file), "{:?}", arrival.order());
        arrival.arrived(file, &hollow.paths(plan)[file])
    };
    let plan = hollow.plan("out", bits(4));
    assert_eq!(begin(&plan, 0).unwrap(), [0]);
    assert_eq!(begin(&plan, 1).unwrap(), [1]);
    let arrival = Arrival::begin(&plan, 0, &|_, _| ()).unwrap();
    assert_eq!(arrival.order(), [2]);
    drop(arrival);
    assert!(!hollow.dir.path().join("out/flashmill.json").exists());

    let path = hollow.dir.path().join("out/experts-00003.safetensors");
    let whole = fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    // In the gate of expert 0, which the journal vouches for.
    damaged[4096 + 100] ^= 1;
    fs::write(&path, damaged).unwrap();
    let error = begin(&plan, 2).unwrap_err().to_string();
    assert!(error.contains("experts-00003.safetensors") && error.contains("check the disk"), "{error}");
    fs::write(&path, whole).unwrap();

    let mut arrival = Arrival::begin(&plan, 0, &|_, _| ()).unwrap();
    assert_eq!(arrival.arrived(2, &hollow.paths(&plan)[2]).unwrap(), [2]);
    arrival.finish().unwrap();
    assert!(files(&hollow.dir.path().join("out")) == expected);
}
