//! Arithmetic on one line of text.

use anyhow::{Result, bail};
use serde_json::Number;

/// Expressions longer than this are refused.
const MAX_CHARS: usize = 4096;

/// Parentheses, signs and powers nest at most this deep, so that no expression exhausts the stack.
const MAX_DEPTH: usize = 64;

/// The value of an expression: `+ - * / % ^`, parentheses, the functions of [`FUNCTIONS`], `pi`, `e`.
pub(crate) fn calculate(expression: &str) -> Result<Number> {
    if expression.chars().count() > MAX_CHARS {
        bail!("the expression is longer than {MAX_CHARS} characters");
    }
    let mut parser = Parser { rest: expression, depth: 0 };
    let value = parser.sum()?;
    parser.skip_space();
    if let Some(char) = parser.rest.chars().next() {
        bail!("unexpected {char:?} after a complete expression");
    }
    if !value.is_finite() {
        bail!("the result is not a finite number");
    }
    Ok(as_number(value))
}

/// Whole numbers that binary64 holds exactly without a point; others to 15 digits, which is what its arithmetic can promise.
fn as_number(value: f64) -> Number {
    let is_whole = |value: f64| value == value.trunc() && value.abs() <= (1u64 << 53) as f64;
    let rounded: f64 = format!("{value:.14e}").parse().expect("a number that was just written");
    match [value, rounded].into_iter().find(|&value| is_whole(value)) {
        Some(whole) => Number::from(whole as i64),
        None => Number::from_f64(rounded).expect("the result is finite"),
    }
}

/// A function of a number of arguments.
type Function = (&'static str, Arity, fn(&[f64]) -> f64);

enum Arity {
    Exactly(usize),
    AtLeast(usize),
}

const FUNCTIONS: &[Function] = &[
    ("sqrt", Arity::Exactly(1), |x| x[0].sqrt()),
    ("cbrt", Arity::Exactly(1), |x| x[0].cbrt()),
    ("abs", Arity::Exactly(1), |x| x[0].abs()),
    ("exp", Arity::Exactly(1), |x| x[0].exp()),
    ("ln", Arity::Exactly(1), |x| x[0].ln()),
    ("log", Arity::Exactly(1), |x| x[0].log10()),
    ("log10", Arity::Exactly(1), |x| x[0].log10()),
    ("log2", Arity::Exactly(1), |x| x[0].log2()),
    ("sin", Arity::Exactly(1), |x| x[0].sin()),
    ("cos", Arity::Exactly(1), |x| x[0].cos()),
    ("tan", Arity::Exactly(1), |x| x[0].tan()),
    ("asin", Arity::Exactly(1), |x| x[0].asin()),
    ("acos", Arity::Exactly(1), |x| x[0].acos()),
    ("atan", Arity::Exactly(1), |x| x[0].atan()),
    ("floor", Arity::Exactly(1), |x| x[0].floor()),
    ("ceil", Arity::Exactly(1), |x| x[0].ceil()),
    ("round", Arity::Exactly(1), |x| x[0].round()),
    ("pow", Arity::Exactly(2), |x| x[0].powf(x[1])),
    ("min", Arity::AtLeast(1), |x| x.iter().copied().fold(f64::INFINITY, f64::min)),
    ("max", Arity::AtLeast(1), |x| x.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
];

/// Recursive descent: sum, product, sign, power, operand, from the loosest to the tightest.
struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    fn sum(&mut self) -> Result<f64> {
        let mut value = self.product()?;
        loop {
            if self.take("+") {
                value += self.product()?;
            } else if self.take("-") || self.take("\u{2212}") {
                value -= self.product()?;
            } else {
                return Ok(value);
            }
        }
    }

    fn product(&mut self) -> Result<f64> {
        let mut value = self.sign()?;
        loop {
            if self.take_times() {
                value *= self.sign()?;
            } else if self.take("/") || self.take("\u{f7}") {
                let divisor = self.sign()?;
                if divisor == 0.0 {
                    bail!("division by zero");
                }
                value /= divisor;
            } else if self.take("%") {
                let divisor = self.sign()?;
                if divisor == 0.0 {
                    bail!("remainder of a division by zero");
                }
                value %= divisor;
            } else {
                return Ok(value);
            }
        }
    }

    /// A sign binds looser than a power: `-2^2` is -4.
    fn sign(&mut self) -> Result<f64> {
        self.enter()?;
        let value = if self.take("-") || self.take("\u{2212}") {
            -self.sign()?
        } else if self.take("+") {
            self.sign()?
        } else {
            self.power()?
        };
        self.depth -= 1;
        Ok(value)
    }

    /// Powers group to the right: `2^3^2` is 2^9.
    fn power(&mut self) -> Result<f64> {
        let base = self.operand()?;
        if self.take("^") || self.take("**") { Ok(base.powf(self.sign()?)) } else { Ok(base) }
    }

    fn operand(&mut self) -> Result<f64> {
        self.skip_space();
        match self.rest.chars().next() {
            Some('(') => {
                self.take("(");
                let value = self.sum()?;
                self.close()?;
                Ok(value)
            }
            Some(char) if char.is_ascii_digit() || char == '.' => self.number(),
            Some(char) if char.is_ascii_alphabetic() => self.name(),
            Some(char) => bail!("unexpected {char:?} where a number should be"),
            None => bail!("the expression ends where a number should be"),
        }
    }

    fn number(&mut self) -> Result<f64> {
        let bytes = self.rest.as_bytes();
        let digits = |mut at: usize| {
            while bytes.get(at).is_some_and(|byte| byte.is_ascii_digit() || *byte == b'_') {
                at += 1;
            }
            at
        };
        let mut end = digits(0);
        if bytes.get(end) == Some(&b'.') {
            end = digits(end + 1);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            let exponent = digits(end + 1 + sign);
            if exponent > end + 1 + sign {
                end = exponent;
            }
        }
        let (text, rest) = self.rest.split_at(end);
        let Ok(value) = text.replace('_', "").parse() else { bail!("{text:?} is not a number") };
        self.rest = rest;
        Ok(value)
    }

    fn name(&mut self) -> Result<f64> {
        let end = self.rest.find(|char: char| !char.is_ascii_alphanumeric()).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        let name = name.to_ascii_lowercase();
        self.rest = rest;
        match name.as_str() {
            "pi" => return Ok(std::f64::consts::PI),
            "e" => return Ok(std::f64::consts::E),
            _ => {}
        }
        let Some((_, arity, function)) = FUNCTIONS.iter().find(|(known, _, _)| *known == name) else {
            let known: Vec<_> = FUNCTIONS.iter().map(|(name, _, _)| *name).collect();
            bail!("unknown name {name:?}; known are pi, e, {}", known.join(", "));
        };
        let arguments = self.arguments(&name)?;
        let fits = match arity {
            Arity::Exactly(n) => arguments.len() == *n,
            Arity::AtLeast(n) => arguments.len() >= *n,
        };
        if !fits {
            bail!("{name} does not take {} arguments", arguments.len());
        }
        let value = function(&arguments);
        if value.is_nan() {
            bail!("{name} is not defined there");
        }
        Ok(value)
    }

    fn arguments(&mut self, name: &str) -> Result<Vec<f64>> {
        if !self.take("(") {
            bail!("{name} needs its arguments in parentheses");
        }
        let mut arguments = vec![self.sum()?];
        while self.take(",") {
            arguments.push(self.sum()?);
        }
        self.close()?;
        Ok(arguments)
    }

    fn close(&mut self) -> Result<()> {
        if !self.take(")") {
            bail!("a closing parenthesis is missing");
        }
        Ok(())
    }

    fn enter(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            bail!("the expression nests deeper than {MAX_DEPTH}");
        }
        Ok(())
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// `*`, but not the first half of `**`.
    fn take_times(&mut self) -> bool {
        self.skip_space();
        !self.rest.starts_with("**") && (self.take("*") || self.take("\u{d7}"))
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(expression: &str, expected: &str) {
        let found = calculate(expression).map_or_else(|error| error.to_string(), |number| number.to_string());
        assert_eq!(found, expected, "{expression}");
    }

    #[test]
    fn precedence_is_that_of_school() {
        check("1 + 2 * 3", "7");
        check("(1 + 2) * 3", "9");
        check("10 - 4 - 3", "3");
        check("100 / 10 / 2", "5");
        check("2 ^ 3 ^ 2", "512");
        check("-2 ^ 2", "-4");
        check("2 ^ -1", "0.5");
        check("2 ** 10", "1024");
        check("2 * -3", "-6");
        check("17 % 5", "2");
        check("6 \u{d7} 7 \u{2212} 2 \u{f7} 2", "41");
    }

    #[test]
    fn numbers_in_and_out() {
        check("0.1 + 0.2", "0.3");
        check("1_000 * 1e3", "1000000");
        check(".5 * 2.", "1");
        check("1 / 3", "0.333333333333333");
        check("2^60", "1.15292150460685e+18");
        check("12345678 * 87654321", "1082152022374638");
        check("1e-9", "1e-9");
        check("0 * -1", "0");
        check("2e", "unexpected 'e' after a complete expression");
    }

    #[test]
    fn functions_and_constants() {
        check("sqrt(2) ^ 2", "2");
        check("max(1, 2 + 3, 4) - min(1)", "4");
        check("Round(pi * 100) / 100", "3.14");
        check("log(1000) + log2(8) + ln(e)", "7");
        check("pow(2, 0.5)", "1.4142135623731");
    }

    #[test]
    fn errors_say_what_is_wrong() {
        check("", "the expression ends where a number should be");
        check("1 +", "the expression ends where a number should be");
        check("(1", "a closing parenthesis is missing");
        check("1 / 0", "division by zero");
        check("5 % (3 - 3)", "remainder of a division by zero");
        check("1 1", "unexpected '1' after a complete expression");
        check("sqrt 2", "sqrt needs its arguments in parentheses");
        check("sqrt(-1)", "sqrt is not defined there");
        check("pow(1)", "pow does not take 1 arguments");
        check("10 ^ 400", "the result is not a finite number");
        check(".", "\".\" is not a number");
        assert!(
            calculate("system(1)")
                .is_err_and(|error| error.to_string().starts_with("unknown name \"system\""))
        );
    }

    #[test]
    fn deep_and_long_input_is_refused() {
        for unit in ["(", "-", "sqrt(", "2^"] {
            let error = calculate(&unit.repeat(700)).expect_err("too deep").to_string();
            assert_eq!(error, "the expression nests deeper than 64", "{unit}");
        }
        assert!(
            calculate(&"1+".repeat(3000)).is_err_and(|error| error.to_string().contains("longer than 4096"))
        );
        check(&format!("{}1{}", "(".repeat(60), ")".repeat(60)), "1");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9a-z+*/%^(),. _eE\u{d7}\u{2212}-]{0,60}|\\PC{0,40}") {
            let _ = calculate(&text);
        }
    }
}
