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

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

macro_rules! files {
    ($($path:literal $kind:ident $name:literal,)*) => {
        &[$(PageFile { path: $path, kind: $kind, text: include_str!(concat!("../page/", $name)) },)*]
    };
}

/// All of them.
pub(crate) const FILES: &[PageFile] = files![
    "/" HTML "index.html",
    "/page.css" CSS "page.css",
    "/page.js" JS "page.js",
    "/theme.js" JS "theme.js",
    "/api.js" JS "api.js",
    "/arithmetic.js" JS "arithmetic.js",
    "/assistant.js" JS "assistant.js",
    "/call.js" JS "call.js",
    "/conversation.js" JS "conversation.js",
    "/dom.js" JS "dom.js",
    "/examples.js" JS "examples.js",
    "/gauge.js" JS "gauge.js",
    "/highlight.js" JS "highlight.js",
    "/inline.js" JS "inline.js",
    "/keys.js" JS "keys.js",
    "/live.js" JS "live.js",
    "/map.js" JS "map.js",
    "/markdown.js" JS "markdown.js",
    "/request.js" JS "request.js",
    "/settings.js" JS "settings.js",
    "/sse.js" JS "sse.js",
    "/store.js" JS "store.js",
    "/themes.js" JS "themes.js",
    "/tools.js" JS "tools.js",
    "/user.js" JS "user.js",
    "/view.js" JS "view.js",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_carried_and_every_import_is_there() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/page");
        let mut on_disk: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| format!("/{}", entry.unwrap().file_name().into_string().unwrap()))
            .map(|path| if path == "/index.html" { "/".to_owned() } else { path })
            .collect();
        let mut carried: Vec<&str> = FILES.iter().map(|file| file.path).collect();
        on_disk.sort_unstable();
        carried.sort_unstable();
        assert_eq!(on_disk, carried);
        for file in FILES.iter().filter(|file| file.kind == JS) {
            for import in file.text.split(" from \"./").skip(1) {
                let name = import.split('"').next().unwrap();
                assert!(carried.contains(&format!("/{name}").as_str()), "{} imports {name}", file.path);
            }
        }
    }
}
