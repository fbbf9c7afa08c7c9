//! Sizes in the text form: `4`, `s`, `2*s - 1`, `past + s`, `512*ceil(s/512)`, `max(s, 16)`.

use super::parse::{Parsed, Parser};
use crate::ir::Dim;
use crate::ir::size::{Size, is_symbol_char};

/// Deepest nesting that is parsed.
const DEEPEST: usize = 32;

impl Parser<'_> {
    /// A size of a shape.
    pub(super) fn dim(&mut self) -> Parsed<Dim> {
        Ok(Dim::try_from(self.sum(0)?)?)
    }

    fn sum(&mut self, depth: usize) -> Parsed<Size> {
        if depth > DEEPEST {
            return Err("a size is nested too deeply".to_owned());
        }
        let mut sum = match self.eat("-") {
            true => Size::constant(0).minus(&self.product(depth)?)?,
            false => self.product(depth)?,
        };
        loop {
            sum = if self.eat("+") {
                sum.plus(&self.product(depth)?)?
            } else if self.eat("-") {
                sum.minus(&self.product(depth)?)?
            } else {
                return Ok(sum);
            };
        }
    }

    fn product(&mut self, depth: usize) -> Parsed<Size> {
        let mut product = self.factor(depth)?;
        while self.eat("*") {
            product = product.times(&self.factor(depth)?)?;
        }
        Ok(product)
    }

    fn factor(&mut self, depth: usize) -> Parsed<Size> {
        if self.eat("(") {
            let inner = self.sum(depth + 1)?;
            self.expect(')')?;
            return Ok(inner);
        }
        if self.at('"') {
            return Ok(Size::symbol(self.string()?.into()));
        }
        let word = self.take_while(is_symbol_char)?;
        match word {
            "floor" | "ceil" if self.eat("(") => {
                let of = self.sum(depth + 1)?;
                self.expect('/')?;
                let by = self.take_while(is_symbol_char)?;
                let by: i64 = by.parse().map_err(|_| format!("`{by}` is not a number"))?;
                self.expect(')')?;
                Ok(if word == "floor" { of.floor_div(by)? } else { of.ceil_div(by)? })
            }
            "max" if self.eat("(") => {
                let mut of = vec![self.sum(depth + 1)?];
                while self.eat(",") {
                    of.push(self.sum(depth + 1)?);
                }
                self.expect(')')?;
                Ok(Size::max(&of)?)
            }
            number if number.starts_with(|c: char| c.is_ascii_digit()) => {
                number.parse().map(Size::constant).map_err(|_| format!("`{number}` is not a size"))
            }
            name => Ok(Size::symbol(name.into())),
        }
    }
}
