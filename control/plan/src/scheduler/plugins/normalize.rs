//! Ways to bring ratings in a unit of their own to 0..=[`MAX_SCORE`].

use crate::scheduler::framework::MAX_SCORE;

/// The highest rating is the best.
pub(super) fn highest(ratings: &mut [i64]) {
    let top = ratings.iter().copied().max().unwrap_or(0);
    if top > 0 {
        ratings.iter_mut().for_each(|rating| *rating = *rating * MAX_SCORE / top);
    }
}

/// The lowest rating is the best.
pub(super) fn lowest(ratings: &mut [i64]) {
    let top = ratings.iter().copied().max().unwrap_or(0);
    let score = |rating: i64| if top > 0 { (top - rating) * MAX_SCORE / top } else { MAX_SCORE };
    ratings.iter_mut().for_each(|rating| *rating = score(*rating));
}

#[cfg(test)]
mod tests {
    use super::*;

    type Normalize = fn(&mut [i64]);

    #[test]
    fn ratings_come_to_the_scale() {
        for (name, normalize, mut ratings, expect) in [
            ("highest", highest as Normalize, vec![0, 5, 10], vec![0, 50, 100]),
            ("highest of nothing", highest, vec![0, 0], vec![0, 0]),
            ("lowest", lowest, vec![0, 5, 10], vec![100, 50, 0]),
            ("lowest of nothing", lowest, vec![0, 0], vec![100, 100]),
        ] {
            normalize(&mut ratings);
            assert_eq!(ratings, expect, "{name}");
        }
    }
}
