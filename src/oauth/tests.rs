//! The client against a provider that is strict about what it takes.
