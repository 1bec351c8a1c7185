//! A read that fails is an error of its pass, and never a token: what comes out in spite of failures has the right bits.

use flashmill_checkpoint::Checkpoint;
use flashmill_model::{Model, ModelError, ModelOptions, Prefetch, ResidentTrunk, Sequence, Wanted};
use flashmill_store::{Faults, StoreOptions};

use crate::fixture::{self, Golden, options};

/// The last row of logits as bits after each of `chunks`, or the error.
fn run(model: &mut Model, chunks: &[&[u32]]) -> Result<Vec<Vec<u32>>, ModelError> {
    let mut state = model.new_state()?;
    let mut rows = Vec::new();
    for tokens in chunks {
        let mut batch = [Sequence { state: &mut state, tokens, wanted: Wanted::Last }];
        if let Err(error) = model.forward(&mut batch, None, None) {
            let again = [Sequence { state: &mut state, tokens: &[1], wanted: Wanted::Last }];
            let again = model.forward(&mut { again }, None, None);
            assert!(matches!(again, Err(ModelError::BrokenState)), "a broken state is not used again");
            return Err(error);
        }
        rows.push(model.logits(0).iter().map(|value| value.to_bits()).collect());
    }
    Ok(rows)
}

#[test]
fn a_failed_read_never_yields_a_token() {
    let name = "qwen3_5_moe_mlx4";
    let checkpoint = Checkpoint::open(&fixture::path(name)).unwrap();
    let prompt = Golden::open(name).ids("prompt_ids");
    let chunks = [&prompt[..40], &prompt[40..41], &prompt[41..42], &prompt[42..43]];
    let expected = run(&mut fixture::load(name, fixture::cpu(2, None), options()), &chunks).unwrap();
    for prefetch in Prefetch::ALL {
        let (mut n_failed, mut n_right) = (0, 0);
        for seed in 0..12 {
            let faults = Faults { seed, fail: 4, short: 100, delay: 200, ..Faults::default() };
            let store = StoreOptions { slot_bytes: 400 << 10, ..StoreOptions::default() };
            let options = ModelOptions { prefetch, store, ..options() };
            let backend = fixture::cpu(2, None);
            let trunk =
                ResidentTrunk::read(&checkpoint, backend, options.store.reader, &mut |_, _| ()).unwrap();
            let mut model = Model::new_faulty(&checkpoint, trunk, options, Some(faults)).unwrap();
            for _ in 0..4 {
                match run(&mut model, &chunks) {
                    Ok(rows) => {
                        assert!(rows == expected, "{prefetch}, seed {seed}: other bits");
                        n_right += 1;
                    }
                    Err(error) => {
                        assert!(
                            error.to_string().contains("injected fault"),
                            "{prefetch}, seed {seed}: {error}"
                        );
                        n_failed += 1;
                    }
                }
            }
        }
        assert!(n_failed > 0 && n_right > 0, "{prefetch}: {n_failed} failed, {n_right} right");
    }
}
