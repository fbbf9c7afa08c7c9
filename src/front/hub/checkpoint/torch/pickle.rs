//! A machine that reads pickles and runs nothing.
//!
//! It knows the opcodes that PyTorch's writer uses (pickle protocol 2; the opcodes are described in `pickletools` of
//! Python's library) and the values of [`Value`], no others. A name is compared with a list and never resolved, so a
//! pickle can run no code. Each opcode adds at most one object and one stack entry; their number, the stack, the
//! memo and the nesting are limited, and nothing is ever copied deeply.

use std::collections::HashMap;

use super::cursor::Cursor;
use super::rebuild;
use super::value::{Global, Heap, Object, Value};
use crate::error::{Error, Result, printable};

/// Most opcodes of one pickle. A tensor takes about 25 of them.
const MOST_OPCODES: usize = 1 << 21;
/// Most values on the stack. Python's writer empties it after a thousand entries of a dict.
const MOST_STACKED: usize = 1 << 16;
/// Most marks that are open at a time.
const MOST_MARKS: usize = 100;
/// Longest module or name of a global, in bytes.
const LONGEST_NAME: usize = 256;

/// The content of a pickle.
pub(super) struct Pickle<'a> {
    /// The objects.
    pub(super) heap: Heap<'a>,
    /// The value that the pickle is of.
    pub(super) top: Value<'a>,
    /// How many bytes the pickle takes.
    pub(super) len: usize,
}

/// Reads the pickle at the beginning of `bytes`. Errors name `what` and the byte of the opcode.
pub(super) fn read<'a>(bytes: &'a [u8], what: &str) -> Result<Pickle<'a>> {
    let mut machine = Machine {
        input: Cursor::new(bytes),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        heap: Heap::default(),
    };
    for _ in 0..MOST_OPCODES {
        let at = machine.input.position();
        if let Some(top) = machine.step().map_err(|e| e.at(format!("{what}, byte {at}")))? {
            return Ok(Pickle { heap: machine.heap, top, len: machine.input.position() });
        }
    }
    Err(Error::bad_input(format!("the pickle has more than {MOST_OPCODES} opcodes")).at(what))
}

struct Machine<'a> {
    input: Cursor<'a>,
    stack: Vec<Value<'a>>,
    /// The height of the stack at each open mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    heap: Heap<'a>,
}

impl<'a> Machine<'a> {
    /// Runs one opcode. The last one, STOP, returns the pickle's value.
    fn step(&mut self) -> Result<Option<Value<'a>>> {
        match self.input.u8()? {
            b'.' => return self.stop().map(Some),
            0x80 => self.proto()?,
            b'(' => self.mark()?,
            b'q' => self.put(Machine::index1)?,
            b'r' => self.put(Machine::index4)?,
            b'a' => {
                let value = self.pop()?;
                self.append(vec![value])?;
            }
            b'e' => {
                let values = self.pop_to_mark()?;
                self.append(values)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(vec![key, value])?;
            }
            b'u' => {
                let values = self.pop_to_mark()?;
                self.set(values)?;
            }
            b'b' => self.build()?,
            opcode => {
                let value = self.value(opcode)?;
                self.push(value)?;
            }
        }
        Ok(None)
    }

    /// The value that an opcode puts on the stack.
    fn value(&mut self, opcode: u8) -> Result<Value<'a>> {
        Ok(match opcode {
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(i32::from_le_bytes(self.input.array()?).into()),
            b'K' => Value::Int(self.input.u8()?.into()),
            b'M' => Value::Int(self.input.u16()?.into()),
            0x8a => self.long()?,
            b'G' => {
                self.input.take(8)?;
                Value::Float
            }
            b'X' => {
                let length = self.input.u32()?;
                self.string(length as usize)?
            }
            b'U' => {
                let length = self.input.u8()?;
                self.string(length.into())?
            }
            b'h' => self.get(Machine::index1)?,
            b'j' => self.get(Machine::index4)?,
            b'c' => self.global()?,
            b'}' => self.heap.add(Object::Dict { ordered: false, entries: Vec::new() }),
            b']' => self.heap.add(Object::List(Vec::new())),
            b')' => self.tuple_of(0)?,
            0x85 => self.tuple_of(1)?,
            0x86 => self.tuple_of(2)?,
            0x87 => self.tuple_of(3)?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.heap.add(Object::Tuple(items))
            }
            b'R' => self.reduce()?,
            b'Q' => {
                let id = self.pop()?;
                let storage = rebuild::storage(&self.heap, id)?;
                self.heap.add(Object::Storage(Box::new(storage)))
            }
            other => return Err(refused(other)),
        })
    }

    fn stop(&mut self) -> Result<Value<'a>> {
        let top = self.pop()?;
        if !self.stack.is_empty() || !self.marks.is_empty() {
            return Err(Error::bad_input("the pickle ends with more than one value"));
        }
        Ok(top)
    }

    fn proto(&mut self) -> Result<()> {
        match self.input.u8()? {
            2 => Ok(()),
            other => Err(Error::unsupported(format!("pickle protocol {other}; PyTorch writes protocol 2"))),
        }
    }

    fn push(&mut self, value: Value<'a>) -> Result<()> {
        if self.stack.len() >= MOST_STACKED {
            return Err(Error::bad_input(format!("more than {MOST_STACKED} values are on the stack")));
        }
        self.stack.push(value);
        Ok(())
    }

    /// The uppermost value; those below the last mark are out of reach.
    fn top(&self) -> Result<Value<'a>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let above = self.stack.get(floor..).unwrap_or_default();
        above.last().copied().ok_or_else(|| Error::bad_input("the stack has too few values"))
    }

    /// The uppermost value, taken off.
    fn pop(&mut self) -> Result<Value<'a>> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn mark(&mut self) -> Result<()> {
        if self.marks.len() >= MOST_MARKS {
            return Err(Error::bad_input(format!("marks are nested deeper than {MOST_MARKS}")));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>> {
        let mark = self.marks.pop().ok_or_else(|| Error::bad_input("no mark is on the stack"))?;
        Ok(self.stack.drain(mark.min(self.stack.len())..).collect())
    }

    fn tuple_of(&mut self, n: usize) -> Result<Value<'a>> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        Ok(self.heap.add(Object::Tuple(items)))
    }

    fn index1(&mut self) -> Result<u32> {
        self.input.u8().map(u32::from)
    }

    fn index4(&mut self) -> Result<u32> {
        self.input.u32()
    }

    fn put(&mut self, index: impl FnOnce(&mut Self) -> Result<u32>) -> Result<()> {
        let index = index(self)?;
        let value = self.top()?;
        self.memo.insert(index, value);
        Ok(())
    }

    fn get(&mut self, index: impl FnOnce(&mut Self) -> Result<u32>) -> Result<Value<'a>> {
        let index = index(self)?;
        let value = self.memo.get(&index).copied();
        value.ok_or_else(|| Error::bad_input(format!("the memo has no value {index}")))
    }

    /// An integer of up to eight bytes, in two's complement.
    fn long(&mut self) -> Result<Value<'a>> {
        let length = self.input.u8()?;
        let bytes = self.input.take(length.into())?;
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        let low = wide.get_mut(..bytes.len());
        let low = low.ok_or_else(|| Error::bad_input(format!("an integer of {length} bytes, at most 8 are read")))?;
        low.copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    fn string(&mut self, length: usize) -> Result<Value<'a>> {
        let bytes = self.input.take(length)?;
        std::str::from_utf8(bytes).map(Value::Str).map_err(|_| Error::bad_input("a string is not UTF-8"))
    }

    fn global(&mut self) -> Result<Value<'a>> {
        let [module, name] = [self.input.line(LONGEST_NAME)?, self.input.line(LONGEST_NAME)?]
            .map(|part| std::str::from_utf8(part).map_err(|_| Error::bad_input("a name is not UTF-8")));
        let (module, name) = (module?, name?);
        Global::named(module, name).map(Value::Global).ok_or_else(|| {
            Error::unsupported(format!(
                "the pickle calls `{}.{}`, which kilnc does not run",
                printable(module),
                printable(name)
            ))
        })
    }

    fn append(&mut self, mut values: Vec<Value<'a>>) -> Result<()> {
        let list = self.top()?;
        let what = self.heap.describe(list);
        match self.heap.get_mut(list) {
            Some(Object::List(items)) => items.append(&mut values),
            _ => return Err(Error::bad_input(format!("an element is appended to {what}, expected a list"))),
        }
        Ok(())
    }

    /// Sets entries of a dict, as key, value, key, value …
    fn set(&mut self, values: Vec<Value<'a>>) -> Result<()> {
        let dict = self.top()?;
        let what = self.heap.describe(dict);
        let (pairs, rest) = values.as_chunks::<2>();
        match self.heap.get_mut(dict) {
            Some(Object::Dict { entries, .. }) if rest.is_empty() => {
                entries.extend(pairs.iter().map(|[key, value]| (*key, *value)));
            }
            Some(Object::Dict { .. }) => return Err(Error::bad_input("a key of a dict has no value")),
            _ => return Err(Error::bad_input(format!("an entry is set in {what}, expected a dict"))),
        }
        Ok(())
    }

    /// The attributes of an OrderedDict, such as the `_metadata` of a model's modules, are of no use here.
    fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let object = self.top()?;
        match self.heap.get(object) {
            Some(Object::Dict { ordered: true, .. }) if self.heap.dict(state).is_some() => Ok(()),
            _ => {
                let [state, object] = [state, object].map(|value| self.heap.describe(value));
                Err(Error::unsupported(format!("the pickle builds {object} from {state}, which kilnc does not do")))
            }
        }
    }

    fn reduce(&mut self) -> Result<Value<'a>> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let Value::Global(callable) = callable else {
            let what = self.heap.describe(callable);
            return Err(Error::bad_input(format!("the pickle calls {what}, expected a name")));
        };
        rebuild::call(&mut self.heap, callable, arguments)
    }
}

/// An opcode that is not admitted, by its name in `pickletools`.
fn refused(opcode: u8) -> Error {
    let name = match opcode {
        b'0' => "POP",
        b'1' => "POP_MARK",
        b'2' => "DUP",
        b'F' => "FLOAT",
        b'I' => "INT",
        b'L' => "LONG",
        b'P' => "PERSID",
        b'S' => "STRING",
        b'T' => "BINSTRING",
        b'V' => "UNICODE",
        b'd' => "DICT",
        b'g' => "GET",
        b'i' => "INST",
        b'l' => "LIST",
        b'o' => "OBJ",
        b'p' => "PUT",
        b'B' => "BINBYTES",
        b'C' => "SHORT_BINBYTES",
        0x81 => "NEWOBJ",
        0x82 => "EXT1",
        0x83 => "EXT2",
        0x84 => "EXT4",
        0x8b => "LONG4",
        0x8c => "SHORT_BINUNICODE",
        0x8d => "BINUNICODE8",
        0x8e => "BINBYTES8",
        0x8f => "EMPTY_SET",
        0x90 => "ADDITEMS",
        0x91 => "FROZENSET",
        0x92 => "NEWOBJ_EX",
        0x93 => "STACK_GLOBAL",
        0x94 => "MEMOIZE",
        0x95 => "FRAME",
        0x96 => "BYTEARRAY8",
        0x97 => "NEXT_BUFFER",
        0x98 => "READONLY_BUFFER",
        other => return Error::bad_input(format!("0x{other:02x} is no opcode of a pickle")),
    };
    Error::unsupported(format!("opcode {name} is not one that kilnc reads"))
}
