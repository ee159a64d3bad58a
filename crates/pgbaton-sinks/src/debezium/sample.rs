//! What several tests here need: random numbers from a seed, and the way back from an encoded numeric.

/// A small generator (xorshift), so that a failing test fails again.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// The decimal digits of a big-endian two's complement number in base64, written for clarity and not for speed.
pub(super) fn unscaled_digits(base64: &str) -> String {
    let value_of = |digit: u8| match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        other => panic!("{other} is not in base64"),
    };
    assert_eq!(base64.len() % 4, 0, "not padded");
    let bits: Vec<u8> = base64
        .trim_end_matches('=')
        .bytes()
        .flat_map(|digit| (0..6).rev().map(move |bit| value_of(digit) >> bit & 1))
        .collect();
    let bits = &bits[..bits.len() / 8 * 8];
    let negative = bits[0] == 1;
    // Of a negative number, the digits of (-n - 1), one less than its magnitude.
    let mut digits = vec![0_u8];
    let mut double_and_add = |addend: u8| {
        let mut carry = addend;
        for digit in &mut digits {
            carry += *digit * 2;
            *digit = carry % 10;
            carry /= 10;
        }
        if carry > 0 {
            digits.push(carry);
        }
    };
    for bit in bits {
        double_and_add(if negative { 1 - bit } else { *bit });
    }
    if negative {
        let mut at = 0;
        while digits[at] == 9 {
            digits[at] = 0;
            at += 1;
            if at == digits.len() {
                digits.push(0);
            }
        }
        digits[at] += 1;
    }
    let text: String = digits.iter().rev().map(|digit| char::from(b'0' + digit)).collect();
    if negative { format!("-{text}") } else { text }
}
