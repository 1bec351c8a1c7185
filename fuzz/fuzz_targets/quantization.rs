//! The `quantization_config` of a config: MLX's settings, FP8, GPTQ, AWQ and the methods that are refused.
#![no_main]

use flashmill_checkpoint::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let config = [br#"{"model_type":"qwen3_moe","quantization_config":"#, input, b"}"].concat();
    if let Err(error) = fuzzing::config(&config) {
        let message = error.to_string();
        assert!(message.contains("config.json") && message.lines().count() == 1, "{message}");
    }
});
