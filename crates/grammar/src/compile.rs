//! From a grammar's text to a matcher at its start.

use std::panic::AssertUnwindSafe;

use llguidance::Matcher;
use llguidance::api::TopLevelGrammar;

use crate::error::one_line;
use crate::vocabulary::Vocabulary;

/// Grammars are compiled by recursion, and one from outside may nest as deep as its size allows. Only what is used is touched.
const STACK_BYTES: usize = 256 << 20;

/// The matcher of a grammar, or what is wrong with the grammar.
pub(crate) fn compile(vocabulary: &Vocabulary, grammar: TopLevelGrammar) -> Result<Matcher, String> {
    // A panic inside of the compiler is a grammar that it cannot compile, not the end of the program.
    let parser = || vocabulary.factory.create_parser(grammar);
    let parser = || llguidance::panic_utils::catch_unwind(AssertUnwindSafe(parser));
    let matcher = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("grammar".into()).stack_size(STACK_BYTES);
        let work = thread
            .spawn_scoped(scope, || Matcher::new(parser()))
            .map_err(|error| format!("there is no thread to compile it: {error}"))?;
        work.join().map_err(|_| "its compiler failed".to_owned())
    })?;
    match matcher.get_error() {
        Some(error) => Err(one_line(&error)),
        None => Ok(matcher),
    }
}
