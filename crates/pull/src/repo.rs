use std::fmt;
use std::str::FromStr;

use crate::PullError;

/// A model on a hub: `org/name`, or `org/name:QUANT` for one of the GGUF files of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    org: String,
    name: String,
    quant: Option<String>,
}

/// The hub's own limit.
const MAX_NAME: usize = 96;

impl Repo {
    /// `org/name`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.org, self.name)
    }

    /// `name`, without its owner.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The GGUF quantisation asked for, as `Q4_K_M`.
    pub fn quant(&self) -> Option<&str> {
        self.quant.as_deref()
    }

    /// The directory in the cache.
    pub(crate) fn directory(&self) -> String {
        format!("models--{}--{}", self.org, self.name)
    }
}

impl FromStr for Repo {
    type Err = PullError;

    fn from_str(text: &str) -> Result<Repo, PullError> {
        let wrong = || PullError::RepoName { name: text.to_owned() };
        let (id, quant) = match text.split_once(':') {
            Some((id, quant)) => (id, Some(quant)),
            None => (text, None),
        };
        let (org, name) = id.split_once('/').ok_or_else(wrong)?;
        let plain = |part: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty()
                && part.len() <= MAX_NAME
                && part.chars().all(allowed)
                && !part.starts_with(['-', '.'])
                && !part.ends_with(['-', '.'])
                // The cache joins org and name with two dashes; the hub allows neither inside.
                && !part.contains("--")
                && !part.contains("..")
        };
        if !plain(org) || !plain(name) || quant.is_some_and(|quant| !plain(quant)) {
            return Err(wrong());
        }
        Ok(Repo { org: org.to_owned(), name: name.to_owned(), quant: quant.map(str::to_owned) })
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.name)?;
        self.quant.as_ref().map_or(Ok(()), |quant| write!(f, ":{quant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let repo: Repo = "Qwen/Qwen3.5-397B-A17B".parse().unwrap();
        assert_eq!(repo.directory(), "models--Qwen--Qwen3.5-397B-A17B");
        assert_eq!(repo.quant(), None);
        let repo: Repo = "unsloth/Qwen3.5-35B-A3B-GGUF:UD-Q4_K_XL".parse().unwrap();
        assert_eq!((repo.id().as_str(), repo.quant()), ("unsloth/Qwen3.5-35B-A3B-GGUF", Some("UD-Q4_K_XL")));
        assert_eq!(repo.to_string(), "unsloth/Qwen3.5-35B-A3B-GGUF:UD-Q4_K_XL");
        for wrong in [
            "",
            "Qwen",
            "/x",
            "x/",
            "a/b/c",
            "../x",
            "a/..",
            "a/.b",
            "a/b:",
            "a/b:../c",
            "a b/c",
            "a/b?c",
            "a\\b/c",
            "https://hub.example/a/b",
            "a--b/c",
            "a/\u{e9}",
        ] {
            assert!(wrong.parse::<Repo>().is_err(), "{wrong:?}");
        }
        assert!(format!("a/{}", "b".repeat(97)).parse::<Repo>().is_err());
    }
}
