//! How often each kind of transaction comes.

use std::fmt;
use std::str::FromStr;

use fastrand::Rng;

/// A kind of transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A few row changes, some taken back by a savepoint, some transactions by ROLLBACK.
    Rows,
    /// Open for seconds.
    Slow,
    /// Thousands of rows at once.
    Bulk,
    /// COPY.
    Copy,
    /// A column is added or dropped between two changes.
    Columns,
    /// A new table joins the publication.
    Table,
    /// A table is emptied.
    Truncate,
}

const NAMES: [(&str, Kind); 7] = [
    ("rows", Kind::Rows),
    ("slow", Kind::Slow),
    ("bulk", Kind::Bulk),
    ("copy", Kind::Copy),
    ("columns", Kind::Columns),
    ("table", Kind::Table),
    ("truncate", Kind::Truncate),
];

/// One weight for each kind of transaction. Read from text such as `bulk=0,slow=50`; what is not named stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights([u32; NAMES.len()]);

impl Default for Weights {
    fn default() -> Self {
        Weights([2_000, 20, 1, 20, 6, 4, 4])
    }
}

impl Weights {
    /// Draws a kind.
    pub fn draw(&self, rng: &mut Rng) -> Kind {
        let mut left = rng.u32(..self.0.iter().sum::<u32>());
        for (weight, (_, kind)) in self.0.iter().zip(NAMES) {
            match left.checked_sub(*weight) {
                Some(rest) => left = rest,
                None => return kind,
            }
        }
        Kind::Rows
    }
}

impl FromStr for Weights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut weights = Weights::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, weight) = part.split_once('=').ok_or_else(|| format!("{part:?} is not KIND=WEIGHT"))?;
            let index = NAMES
                .iter()
                .position(|(known, _)| *known == name)
                .ok_or_else(|| format!("{name:?} is none of {}", NAMES.map(|(name, _)| name).join(", ")))?;
            weights.0[index] = weight
                .parse()
                .ok()
                .filter(|weight| *weight <= 1_000_000)
                .ok_or_else(|| format!("{weight:?} is no number from 0 to 1000000"))?;
        }
        if weights.0.iter().sum::<u32>() == 0 {
            return Err("one weight must be above 0".into());
        }
        Ok(weights)
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named: Vec<String> =
            NAMES.iter().zip(self.0).map(|((name, _), weight)| format!("{name}={weight}")).collect();
        f.write_str(&named.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_of_nothing_is_never_drawn() {
        let weights: Weights = "rows=0,bulk=0,slow=1,copy=0,columns=0,table=0,truncate=3".parse().unwrap();
        let mut rng = Rng::with_seed(1);
        let drawn: Vec<Kind> = (0..400).map(|_| weights.draw(&mut rng)).collect();
        assert!(drawn.iter().all(|kind| matches!(kind, Kind::Slow | Kind::Truncate)));
        assert!(drawn.contains(&Kind::Slow) && drawn.contains(&Kind::Truncate));
    }

    #[test]
    fn what_is_not_named_keeps_its_weight_and_mistakes_are_named() {
        let text = Weights::default().to_string().replace("bulk=1", "bulk=9");
        assert_eq!("bulk=9".parse::<Weights>().unwrap().to_string(), text);
        for wrong in ["bulk", "balk=1", "bulk=-1", "rows=0,slow=0,bulk=0,copy=0,columns=0,table=0,truncate=0"] {
            wrong.parse::<Weights>().unwrap_err();
        }
    }
}
