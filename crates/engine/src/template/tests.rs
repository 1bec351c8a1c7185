use std::path::Path;

use minijinja::value::Serde;

use super::*;

#[derive(Deserialize)]
struct Cases {
    context: Map<String, serde_json::Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    rendered: Option<String>,
    error: Option<String>,
}

/// What we do not have, and no template that we know of uses: an error, never another text.
const NOT_SUPPORTED: [&str; 7] = [
    "{{ '%s is %d' % ('a', 3) }}",
    "{{ 'a b c d'|wordcount }}",
    "{{ 'hello world'|truncate(5) }}",
    "{{ 'a b'|urlencode }}",
    "{{ '<b>x</b>'|striptags }}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}",
    "{{ +int }}",
];

/// Features of Jinja, one by one, against what transformers' Jinja gives (tests/data/make_jinja_cases.py).
#[test]
fn templates_give_what_transformers_gives() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/jinja_cases.json");
    let cases: Cases = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let env = environment(Arc::new(Zoned::now()));
    let context: BTreeMap<String, Value> =
        cases.context.iter().map(|(name, value)| (name.clone(), Value::from(Serde(value)))).collect();
    let mut wrong = Vec::new();
    for case in &cases.cases {
        let source = source::without_generation_tags(&case.template);
        let result = render(&env, &source, context.clone()).map_err(|error| error.to_string());
        let is_right = match (&case.rendered, &case.error, &result) {
            (Some(expected), None, Ok(text)) => expected == text,
            (Some(_), None, Err(_)) => NOT_SUPPORTED.contains(&case.template.as_str()),
            (None, Some(_), Err(_)) => true,
            _ => false,
        };
        if !is_right {
            wrong.push(format!(
                "{}\n  expected {:?} {:?}\n  got      {result:?}",
                case.template, case.rendered, case.error
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.cases.len(), wrong.join("\n"));
}
