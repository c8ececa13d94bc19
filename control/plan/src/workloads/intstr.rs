//! Limits that are a number or a percentage.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Where a part of a whole goes that is no whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// To the next greater one.
    Up,
    /// To the next smaller one.
    Down,
}

/// A number, or a percentage of `of`. Validation keeps other texts out of the store.
#[must_use]
pub fn scaled(value: &IntOrString, of: i32, round: Round) -> i32 {
    let percent = match value {
        IntOrString::Int(number) => return *number,
        IntOrString::String(text) => text.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()).unwrap_or(0),
    };
    let product = percent.saturating_mul(i64::from(of));
    let part = match round {
        Round::Up => product.div_euclid(100) + i64::from(product.rem_euclid(100) != 0),
        Round::Down => product.div_euclid(100),
    };
    i32::try_from(part).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_parts_of_the_whole() {
        let percent = |text: &str| IntOrString::String(text.into());
        for (value, of, up, down) in [
            (IntOrString::Int(3), 10, 3, 3),
            (percent("25%"), 10, 3, 2),
            (percent("50%"), 10, 5, 5),
            (percent("0%"), 10, 0, 0),
            (percent("100%"), i32::MAX, i32::MAX, i32::MAX),
            (percent("odd"), 10, 0, 0),
            (percent("0%"), 3, 0, 0),
            (percent("150%"), 4, 6, 6),
            (percent("33%"), 1, 1, 0),
            (percent("1.5%"), 10, 0, 0),
            (percent("-10%"), 10, -1, -1),
            (percent(" 25%"), 10, 0, 0),
            (percent("25 %"), 10, 0, 0),
            (percent("025%"), 10, 3, 2),
            (percent("+25%"), 10, 3, 2),
        ] {
            assert_eq!((scaled(&value, of, Round::Up), scaled(&value, of, Round::Down)), (up, down), "{value:?}");
        }
    }
}
