//! `Reference` against its own contract: all ways to do a computation give the same bits.

use flashmill_kernels::suite::{Precision, check_backend};
use flashmill_kernels::{Backend, Reference};

#[test]
fn rows_and_calls_are_independent() {
    check_backend(&|| Box::new(Reference::new()), &Precision::F32, 1);
}

#[test]
fn bytes_are_those_of_what_is_held() {
    let mut backend = Reference::new();
    let buffer = backend.buffer(100);
    assert_eq!(backend.bytes(), 400);
    backend.release(buffer);
    assert_eq!(backend.bytes(), 0);
}

#[test]
#[should_panic(expected = "released")]
fn a_released_buffer_is_gone() {
    let mut backend = Reference::new();
    let buffer = backend.buffer(1);
    backend.release(buffer);
    backend.buffer(1);
    backend.write(buffer, 0, &[1.0]);
}
