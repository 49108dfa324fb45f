//! What must stay secret, looked for everywhere: a canary in every field, everything done once, and then all that came out is
//! searched for any eight bytes of a canary, plain or encoded. Commands that are meant to show a secret are not searched:
//! `resolve --reveal`, and `token create` on its standard output.

mod canary;
mod embedded;
mod mistakes;
mod process;
mod vault;
