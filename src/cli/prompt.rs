//! Secrets from people and scripts: typed without echo, from a file, or on standard input; never as a flag.

use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use zeroize::Zeroizing;

use super::failure::{Exit, Failure};
use crate::limits;
use crate::model::secret::SecretString;

/// Asks the person at the terminal, without echo.
pub(super) fn ask(question: &str) -> Result<SecretString, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, "NO_TERMINAL", format!("{question}: there is no terminal to ask at"))
            .fix("give it by --secret-file FIELD=PATH (- is standard input); in a manifest, by {file: PATH} or {env: NAME}"));
    }
    let typed = rpassword::prompt_password(format!("{question} (hidden): "));
    typed.map(SecretString::from).map_err(|error| {
        Failure::new(Exit::Failed, "PROMPT", format!("{question}: nothing could be read")).why(error.to_string())
    })
}

/// Reads a secret from a file, or from standard input if the path is `-`.
pub(super) fn read(path: &Path) -> Result<SecretString, Failure> {
    let mut text = Zeroizing::new(String::new());
    let bytes_max = limits::CREDENTIAL_FIELD_BYTES_MAX as u64 + 1;
    let outcome = match path.to_str() {
        Some("-") => std::io::stdin().take(bytes_max).read_to_string(&mut text),
        _ => std::fs::File::open(path).and_then(|file| file.take(bytes_max).read_to_string(&mut text)),
    };
    outcome.map_err(|error| {
        Failure::new(Exit::Usage, "SECRET_FILE", format!("the secret file {} cannot be read", path.display()))
            .why(error.to_string())
    })?;
    if text.len() > limits::CREDENTIAL_FIELD_BYTES_MAX {
        let message = format!("{} holds more than {} bytes", path.display(), limits::CREDENTIAL_FIELD_BYTES_MAX);
        return Err(Failure::new(Exit::Usage, "SECRET_FILE", message));
    }
    Ok(SecretString::from(text.as_str()))
}
