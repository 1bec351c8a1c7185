//! The web page: plain files that the program carries.

/// A file of the page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageFile {
    /// Where it is asked for.
    pub(crate) path: &'static str,
    /// Its content type.
    pub(crate) kind: &'static str,
    pub(crate) text: &'static str,
}

macro_rules! files {
    ($($path:literal $kind:ident $name:literal,)*) => {
        &[$(PageFile { path: $path, kind: $kind, text: include_str!(concat!("../page/", $name)) },)*]
    };
}

/// All of them.
pub(crate) const FILES: &[PageFile] = files![];
