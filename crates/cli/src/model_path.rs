//! MODEL on the command line: a path, or `demo` for the model that the program carries.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::demo::{self, Extracted};
use crate::interrupt;

/// A model that is there, kept for as long as this lives. Whether it can be read, the checkpoint says.
pub(crate) enum ModelPath {
    /// Given by the user.
    Given(PathBuf),
    /// The demo model.
    Demo(Extracted),
}

impl ModelPath {
    /// Finds the model. `demo` is the built-in one even if there is a directory of that name; `./demo` is the directory.
    pub(crate) fn find(model: &Path) -> Result<ModelPath> {
        if model == Path::new("demo") {
            let extracted = demo::extract_demo(demo::user_cache().as_deref())?;
            if extracted.is_temporary() {
                interrupt::remove_on_interrupt(extracted.path());
            }
            return Ok(ModelPath::Demo(extracted));
        }
        match std::fs::metadata(model) {
            Ok(_) => Ok(ModelPath::Given(model.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("{}", not_there(model)),
            Err(error) => Err(error).with_context(|| format!("cannot open {}", model.display())),
        }
    }

    /// The directory or file.
    pub(crate) fn path(&self) -> &Path {
        match self {
            ModelPath::Given(path) => path,
            ModelPath::Demo(extracted) => extracted.path(),
        }
    }
}

fn not_there(path: &Path) -> String {
    let model = path.display();
    if path.to_str().is_some_and(is_hub_id) && path.parent().is_some_and(|parent| !parent.exists()) {
        return format!(
            "{model} does not exist here; if this is a Hugging Face id, fetch it with `flashmill pull {model}` and give \
             the path that it prints"
        );
    }
    format!("{model} does not exist; give a GGUF file, a model's directory, or demo for the built-in model")
}

/// `owner/name`, as the Hugging Face hub writes it.
fn is_hub_id(model: &str) -> bool {
    let is_name = |part: &str| {
        part.starts_with(|char: char| char.is_ascii_alphanumeric())
            && part.chars().all(|char| char.is_ascii_alphanumeric() || "-_.".contains(char))
    };
    model.split_once('/').is_some_and(|(owner, name)| is_name(owner) && is_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids() {
        for id in ["Qwen/Qwen3.5-35B-A3B", "mlx-community/Qwen3.5-397B-A17B-4bit"] {
            assert!(is_hub_id(id), "{id}");
        }
        for path in ["./demo", "/models/x", "models/a/b", "demo", "../x", "~/models", "models/", "a/ b"] {
            assert!(!is_hub_id(path), "{path}");
        }
    }

    #[test]
    fn what_is_no_model_is_explained() {
        let message = |path: &str| ModelPath::find(Path::new(path)).err().expect("no model").to_string();
        assert!(message("Qwen/Qwen3.5-35B-A3B").contains("flashmill pull Qwen/Qwen3.5-35B-A3B"));
        assert!(message("nowhere").starts_with("nowhere does not exist; give a GGUF file"));
        let directory = tempfile::tempdir().expect("a temporary directory");
        let found = ModelPath::find(directory.path()).expect("a directory");
        assert_eq!(found.path(), directory.path());
    }
}
