//! Which files of a repository a model needs.

use crate::hub::RemoteFile;
use crate::{PullError, Repo};

/// What stands beside the weights.
const BESIDE: [&str; 14] = [
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "quantize_config.json",
    "hf_quant_config.json",
    "preprocessor_config.json",
];

/// The needed ones of `files`: one GGUF model, or the safetensors files and what belongs to them.
pub(crate) fn select(repo: &Repo, files: Vec<RemoteFile>) -> Result<Vec<RemoteFile>, PullError> {
    let quants = quants(&files);
    if let Some(wanted) = repo.quant() {
        let found = quants.iter().find(|quant| quant.eq_ignore_ascii_case(wanted)).cloned();
        let Some(found) = found else {
            return Err(PullError::NoQuant { repo: repo.id(), quant: wanted.to_owned(), quants });
        };
        return Ok(files.into_iter().filter(|file| quant_of(&file.path) == Some(found.as_str())).collect());
    }
    if files.iter().any(is_weights) {
        let needed = |file: &RemoteFile| is_weights(file) || BESIDE.contains(&file.path.as_str());
        return Ok(files.into_iter().filter(needed).collect());
    }
    match quants.is_empty() {
        true => Err(PullError::NoWeights { repo: repo.id() }),
        false => Err(PullError::ChooseQuant { repo: repo.id(), quants }),
    }
}

/// A file of safetensors weights.
pub(crate) fn is_weights(file: &RemoteFile) -> bool {
    !file.path.contains('/') && file.path.starts_with("model") && file.path.ends_with(".safetensors")
}

/// The quantisations of the GGUF files, each once.
fn quants(files: &[RemoteFile]) -> Vec<String> {
    let mut quants: Vec<String> =
        files.iter().filter_map(|file| quant_of(&file.path)).map(str::to_owned).collect();
    quants.sort();
    quants.dedup();
    quants
}

/// The quantisation that a GGUF file's name says: `Q4_K_M` of `x-Q4_K_M.gguf` and `x.Q4_K_M.gguf`, of all parts of a split file;
/// with `UD-` where that stands before it. Projectors of images are no models.
fn quant_of(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?;
    let stem = name.strip_suffix(".gguf")?;
    if stem.to_ascii_lowercase().contains("mmproj") || stem.ends_with("imatrix") {
        return None;
    }
    let stem = match stem.rsplit_once("-of-") {
        Some((start, count)) if count.len() == 5 && count.bytes().all(|b| b.is_ascii_digit()) => {
            start.rsplit_once('-').map_or(start, |(stem, _)| stem)
        }
        _ => stem,
    };
    let at = stem.rfind(['-', '.']).map_or(0, |at| at + 1);
    let at = if stem[..at].ends_with("-UD-") { at - 3 } else { at };
    Some(&stem[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> Vec<RemoteFile> {
        let file = |path: &&str| RemoteFile {
            path: (*path).to_owned(),
            size: 1,
            blob: "0".repeat(40),
            sha256: None,
        };
        paths.iter().map(file).collect()
    }

    fn chosen(repo: &str, paths: &[&str]) -> Result<Vec<String>, String> {
        let files = select(&repo.parse().unwrap(), files(paths)).map_err(|error| error.to_string())?;
        Ok(files.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn safetensors() {
        let paths = [
            ".gitattributes",
            "README.md",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "original/model.safetensors",
            "pytorch_model.bin",
            "tokenizer.json",
        ];
        let found = chosen("a/b", &paths).unwrap();
        assert_eq!(found, [paths[2], paths[3], paths[4], paths[5], paths[8]]);
        assert!(chosen("a/b", &["pytorch_model.bin"]).unwrap_err().contains("no safetensors"));
    }

    #[test]
    fn gguf() {
        let paths = [
            "README.md",
            "Qwen3.5-35B-A3B-Q4_K_M.gguf",
            "Qwen3.5-35B-A3B-UD-Q4_K_XL.gguf",
            "BF16/Qwen3.5-35B-A3B-BF16-00001-of-00002.gguf",
            "BF16/Qwen3.5-35B-A3B-BF16-00002-of-00002.gguf",
            "mmproj-BF16.gguf",
        ];
        assert_eq!(chosen("a/b:q4_k_m", &paths).unwrap(), [paths[1]]);
        assert_eq!(chosen("a/b:UD-Q4_K_XL", &paths).unwrap(), [paths[2]]);
        assert_eq!(chosen("a/b:BF16", &paths).unwrap(), [paths[3], paths[4]]);
        let error = chosen("a/b", &paths).unwrap_err();
        assert!(error.contains("BF16, Q4_K_M, UD-Q4_K_XL; give one as a/b:BF16"), "{error}");
        let error = chosen("a/b:Q8_0", &paths).unwrap_err();
        assert!(error.contains("no GGUF file of Q8_0; it holds BF16, Q4_K_M"), "{error}");
        assert_eq!(quant_of("x/model.Q6_K.gguf"), Some("Q6_K"));
        assert_eq!(quant_of("x/y.safetensors"), None);
    }
}
