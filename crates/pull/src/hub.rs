//! What the hub says: the commit of a revision and the list of its files.

use serde_json::Value;

use crate::http::{Client, escaped};
use crate::{PullError, Repo};

/// A description or a page of a list: a thousand files are some 200 KB.
const MAX_ANSWER_BYTES: u64 = 64 << 20;
/// Pages of a list; a thousand files each.
const MAX_PAGES: usize = 100;
const MAX_PATH_BYTES: usize = 1024;

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteFile {
    /// Relative and plain.
    pub(crate) path: String,
    pub(crate) size: u64,
    /// What the cache calls its bytes: the SHA-256 of large files, the git object of small ones.
    pub(crate) blob: String,
    /// Of large files.
    pub(crate) sha256: Option<String>,
}

/// A revision.
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: Vec<RemoteFile>,
}

/// The files of a revision.
pub(crate) fn list(client: &Client, repo: &Repo, revision: &str) -> Result<Listing, PullError> {
    if !is_plain_path(revision) {
        return Err(PullError::Revision { revision: revision.to_owned() });
    }
    let api = format!("{}/api/models/{}", client.endpoint, repo.id());
    // A slash of a branch's name must not look like one of the URL.
    let url = format!("{api}/revision/{}", escaped(revision).replace('/', "%2F"));
    let (bytes, _) = client.text(&url, MAX_ANSWER_BYTES)?;
    let wrong =
        |url: &str, reason: &str| PullError::Answer { url: url.to_owned(), reason: reason.to_owned() };
    let answer = json(&url, &bytes)?;
    let commit = answer["sha"].as_str().filter(|sha| is_hex(sha, 40));
    let commit = commit.ok_or_else(|| wrong(&url, "it names no commit of 40 hex digits"))?.to_owned();

    // A next page elsewhere is none: the token goes to the hub only.
    let own = format!("{}/", client.endpoint);
    let mut files = Vec::new();
    let mut next = Some(format!("{api}/tree/{commit}?recursive=true"));
    for _ in 0..MAX_PAGES {
        let Some(url) = next.take() else { return Ok(Listing { commit, files }) };
        let (bytes, link) = client.text(&url, MAX_ANSWER_BYTES)?;
        let answer = json(&url, &bytes)?;
        for entry in answer.as_array().ok_or_else(|| wrong(&url, "it is no list of files"))? {
            if entry["type"] == "file" {
                files.push(file(&url, entry)?);
            }
        }
        next = link.and_then(|link| next_page(&link)).filter(|next| next.starts_with(&own));
    }
    Err(wrong(&api, "its list of files has no end"))
}

fn json(url: &str, bytes: &[u8]) -> Result<Value, PullError> {
    serde_json::from_slice(bytes)
        .map_err(|error| PullError::Answer { url: url.to_owned(), reason: error.to_string() })
}

fn file(url: &str, entry: &Value) -> Result<RemoteFile, PullError> {
    let wrong = |reason: String| PullError::Answer { url: url.to_owned(), reason };
    let path = entry["path"].as_str().ok_or_else(|| wrong("a file has no path".to_owned()))?;
    if !is_plain_path(path) {
        return Err(PullError::UnsafePath { path: path.chars().take(200).collect() });
    }
    let lfs = entry.get("lfs").filter(|lfs| !lfs.is_null());
    let of = lfs.unwrap_or(entry);
    let size = of["size"].as_u64().filter(|&size| size < 1 << 50);
    let size = size.ok_or_else(|| wrong(format!("{path:?} has no size")))?;
    let digits = if lfs.is_some() { 64 } else { 40 };
    let oid = of["oid"].as_str().filter(|oid| is_hex(oid, digits));
    let oid = oid.ok_or_else(|| wrong(format!("{path:?} has no hash of {digits} hex digits")))?.to_owned();
    Ok(RemoteFile { path: path.to_owned(), size, sha256: lfs.map(|_| oid.clone()), blob: oid })
}

/// The address of `<address>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let part = link.split(',').find(|part| part.contains("rel=\"next\""))?;
    let (_, rest) = part.split_once('<')?;
    Some(rest.split_once('>')?.0.to_owned())
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A relative path that stays below its root on every system.
pub(crate) fn is_plain_path(path: &str) -> bool {
    let plain = |name: &str| {
        let bad = |c: char| matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|') || c.is_control();
        !name.is_empty() && name.len() <= 255 && !name.contains(bad) && !name.ends_with(['.', ' '])
    };
    // Names that end in a dot are refused above, `.` and `..` among them.
    path.len() <= MAX_PATH_BYTES && path.split('/').all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for good in ["config.json", "a/b/c.gguf", ".gitattributes", "UD-Q4_K_XL/x-00001-of-00002.gguf", "a b"]
        {
            assert!(is_plain_path(good), "{good}");
        }
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a/..",
            "./a",
            "a//b",
            "a/",
            "c:\\x",
            "c:x",
            "a\\b",
            "a\0b",
            "a\nb",
            "x.",
            "nul ",
        ] {
            assert!(!is_plain_path(bad), "{bad:?}");
        }
    }

    #[test]
    fn pages() {
        let link = "<https://hub/api?cursor=x>; rel=\"next\"";
        assert_eq!(next_page(link).as_deref(), Some("https://hub/api?cursor=x"));
        assert_eq!(next_page("<https://hub/a>; rel=\"prev\""), None);
    }
}
