//! Servers that ask who one is and allow nothing by themselves: with the rights that the docs name a worker does all it has to,
//! and no secret that it was given is ever seen.

mod ground;
mod rights;
mod secrets;
