//! Constraints: answers followed token by token.

mod calls;
mod whole;

use flashmill_engine::ConstraintError;
use llguidance::Matcher;

pub(crate) use calls::Calls;
pub(crate) use whole::Whole;

use crate::error::one_line;
use crate::vocabulary::Vocabulary;

/// What a matcher allows, in `mask`. Once the form is complete and nothing can follow, that is the end of the answer.
fn matcher_mask(matcher: &mut Matcher, mask: &mut Vec<u32>) -> Result<(), ConstraintError> {
    let allowed = matcher.compute_mask_or_eos().map_err(|error| too_complex(&error.to_string()))?;
    mask.clear();
    mask.extend_from_slice(allowed.as_slice());
    Ok(())
}

/// Tells a matcher which token was chosen.
fn matcher_accept(vocabulary: &Vocabulary, matcher: &mut Matcher, token: u32) -> Result<(), ConstraintError> {
    if matcher.is_error() {
        return Err(too_complex(&matcher.get_error().unwrap_or_default()));
    }
    if matcher.is_stopped() {
        let is_end = vocabulary.eos_ids.contains(&token);
        return if is_end { Ok(()) } else { Err(ConstraintError::NotAllowed { token }) };
    }
    if !vocabulary.has(token) {
        return Err(ConstraintError::NotAllowed { token });
    }
    match matcher.validate_tokens(&[token]) {
        Ok(1) => matcher.consume_token(token).map_err(|error| too_complex(&error.to_string())),
        Ok(_) => Err(ConstraintError::NotAllowed { token }),
        Err(error) => Err(too_complex(&error.to_string())),
    }
}

fn too_complex(message: &str) -> ConstraintError {
    ConstraintError::TooComplex { reason: one_line(message) }
}
