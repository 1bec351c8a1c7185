use std::path::{Path, PathBuf};

/// The name of one of the files of a split model: `STEM-00002-of-00005.gguf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitName {
    /// Directory and name up to the number.
    stem: PathBuf,
    /// From 1.
    pub no: u32,
    /// Number of files.
    pub count: u32,
}

impl SplitName {
    /// Takes a path apart; `None` if the file's name is no such name.
    pub fn parse(path: &Path) -> Option<SplitName> {
        let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (name, count) = name.rsplit_once("-of-")?;
        let (stem, no) = name.rsplit_once('-')?;
        let number = |digits: &str| match digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit()) {
            true => digits.parse::<u32>().ok(),
            false => None,
        };
        let (no, count) = (number(no)?, number(count)?);
        (!stem.is_empty() && (1..=count).contains(&no)).then(|| SplitName {
            stem: path.with_file_name(stem),
            no,
            count,
        })
    }

    /// The path of file `no`, from 1.
    pub fn path(&self, no: u32) -> PathBuf {
        let stem = self.stem.file_name().and_then(|name| name.to_str()).expect("parsed from text");
        self.stem.with_file_name(format!("{stem}-{no:05}-of-{:05}.gguf", self.count))
    }

    /// The paths of all files, first to last.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> + '_ {
        (1..=self.count).map(|no| self.path(no))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_apart_and_together() {
        let name = SplitName::parse(Path::new("/m/Q4_K_M/a-of-b-00002-of-00010.gguf")).unwrap();
        assert_eq!((name.no, name.count), (2, 10));
        assert_eq!(name.path(10), Path::new("/m/Q4_K_M/a-of-b-00010-of-00010.gguf"));
        assert_eq!(name.paths().count(), 10);
        assert_eq!(name.paths().next().unwrap(), Path::new("/m/Q4_K_M/a-of-b-00001-of-00010.gguf"));
    }

    #[test]
    fn other_names_are_no_splits() {
        for name in [
            "model.gguf",
            "model-1-of-2.gguf",
            "model-00001-of-2.gguf",
            "model-00000-of-00002.gguf",
            "model-00003-of-00002.gguf",
            "model-00001-of-00002.bin",
            "model-000001-of-000002.gguf",
            "model-+0001-of-00002.gguf",
            "00001-of-00002.gguf",
            "-00001-of-00002.gguf",
        ] {
            assert_eq!(SplitName::parse(Path::new(name)), None, "{name}");
        }
    }
}
