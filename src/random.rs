//! Pseudo-random numbers from a seed: SplitMix64 (Steele, Lea and Flood, 2014).

/// The increment of a sequence's state.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The number of a seed's sequence at `index`, from 0 on.
pub fn at(seed: u64, index: u64) -> u64 {
    let mix = |z: u64, shift: u32, factor: u64| (z ^ (z >> shift)).wrapping_mul(factor);
    let state = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(STEP));
    let z = mix(mix(state, 30, 0xbf58_476d_1ce4_e5b9), 27, 0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The number's first 53 bits as a share: 0 or more, less than 1.
pub fn share(number: u64) -> f64 {
    (number >> 11) as f64 / (1u64 << 53) as f64
}

/// The numbers of a seed, one after another.
#[derive(Clone, Debug)]
pub struct Random {
    seed: u64,
    next: u64,
}

impl Random {
    /// From the first number on.
    pub fn new(seed: u64) -> Random {
        Random { seed, next: 0 }
    }

    fn number(&mut self) -> u64 {
        let number = at(self.seed, self.next);
        self.next = self.next.wrapping_add(1);
        number
    }

    /// A number in 0 … 1, neither of them.
    pub fn unit(&mut self) -> f64 {
        ((self.number() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.number() % n.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_reference_implementation() {
        // Of https://prng.di.unimi.it/splitmix64.c with the state 1234567.
        let reference = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
        ];
        let mut random = Random::new(1_234_567);
        for (i, expected) in reference.into_iter().enumerate() {
            assert_eq!((at(1_234_567, i as u64), random.number()), (expected, expected));
        }
        assert_eq!((share(0), share(1 << 63)), (0.0, 0.5));
        assert!(share(u64::MAX) < 1.0);
    }
}
