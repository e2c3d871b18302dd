//! What can be asked of the program.

use std::ffi::OsString;
use std::path::PathBuf;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
An order service on real data: 69,659 orders of 23,570 customers of CDNOW.

usage: cargo run --release --example orders [-- OPTIONS]

  --dir PATH    where everything is kept (default: orders-data)
  --fresh       start over: remove what an earlier run left in the directory
  --rebuild     afterwards rebuild the read model from the log and compare
  --input FILE  other orders in the same format, plain or compressed with gzip
  --help        print this

Run it again and it resumes, also after kill -9. The report goes to standard
output and to PATH/report.txt, all else to standard error.

exit status: 0 if every check of the report holds, 1 if one does not or the
run failed, 2 for options that are not understood, 130 after ctrl-c.
";

/// The command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Where everything is kept.
    pub(crate) dir: PathBuf,
    /// Whether to start over.
    pub(crate) fresh: bool,
    /// Whether to rebuild the read model and compare.
    pub(crate) rebuild: bool,
    /// Which orders; the project's own copy of CDNOW's where this is `None`.
    pub(crate) input: Option<PathBuf>,
    /// Whether only to print the help.
    pub(crate) help: bool,
}

impl Options {
    /// Reads the arguments that follow the program's name.
    ///
    /// # Errors
    ///
    /// A sentence about the first argument that is not understood.
    pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut options = Self {
            dir: PathBuf::from("orders-data"),
            fresh: false,
            rebuild: false,
            input: None,
            help: false,
        };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut path = || {
                let path = arguments.next().map(PathBuf::from);
                path.ok_or_else(|| format!("{} needs a path after it", argument.display()))
            };
            match argument.to_str() {
                Some("--dir") => options.dir = path()?,
                Some("--input") => options.input = Some(path()?),
                Some("--fresh") => options.fresh = true,
                Some("--rebuild") => options.rebuild = true,
                Some("--help" | "-h") => options.help = true,
                _ => return Err(format!("there is no option {}", argument.display())),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn what_is_not_an_option_is_an_error() {
        let options = parse("--dir d --fresh --input f.gz").unwrap();
        assert_eq!((options.dir, options.input), ("d".into(), Some("f.gz".into())));
        assert!(options.fresh && !options.rebuild && !options.help);
        assert_eq!(parse("--fast"), Err("there is no option --fast".into()));
        assert_eq!(parse("--dir"), Err("--dir needs a path after it".into()));
        assert!(parse("orders.txt").is_err());
    }
}
