use flashmill_checkpoint::Checkpoint;
use crate::support::{fixture};

#[test]
fn open_all() {
    for name in ["qwen3_5_moe", "qwen3_5_moe_mlx4", "qwen3_5_moe_mlx2", "qwen3_next", "qwen3_moe", "../models/demo"] {
        let c = Checkpoint::open(&fixture(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        println!("{name}: {:?}\n{:#?}\n", c.spec(), c.inspect());
        for n in c.notes() { println!("{n}"); }
    }
}
