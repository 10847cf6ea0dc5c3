//! HTTP CONNECT (RFC 9110 section 9.3.6): what a client sends, and what it is answered.
//!
//! The head of an HTTP/1 request, whose target is `HOST:PORT`; after an answer of 200 the connection carries bytes. No
//! other method is done: this is no proxy for web pages.

use types::SecretString;

use super::{Progress, Target};

/// The longest head of a request, in bytes, its empty line included.
pub const HEAD_LEN_MAX: usize = 8 * 1024;

/// The most header fields of a request.
const FIELDS_MAX: usize = 64;

/// The field in which a client proves who it is (RFC 9110 section 11.7.2).
const AUTHORIZATION: &str = "proxy-authorization";

/// A request for a connection.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Where to.
    pub target: Target,
    /// What stands in `Proxy-Authorization`, such as `Basic …`; the first, where there are several.
    pub authorization: Option<SecretString>,
}

/// Why a request cannot be understood or done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// It is no head of an HTTP/1 request.
    #[error("this is no HTTP/1 request")]
    Malformed,
    /// Its head is longer than [`HEAD_LEN_MAX`] or has more than 64 fields.
    #[error("the head of the request is longer than 8 KiB or 64 fields")]
    TooLong,
    /// It asks for something other than CONNECT.
    #[error("only CONNECT is done here: this proxy leads into the mesh, and fetches no pages")]
    OtherMethod,
    /// Its target is no host and port.
    #[error("the target of CONNECT must be HOST:PORT")]
    BadTarget,
}

impl ConnectError {
    /// Returns what to answer.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::Malformed | Self::BadTarget => Status::BadRequest,
            Self::TooLong => Status::HeadTooLarge,
            Self::OtherMethod => Status::MethodNotAllowed,
        }
    }
}

/// What becomes of a request that gets no connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// It cannot be understood.
    BadRequest,
    /// The target is not of the mesh.
    Forbidden,
    /// No such node is known.
    NotFound,
    /// It is not CONNECT.
    MethodNotAllowed,
    /// The password is missing or wrong.
    AuthenticationRequired,
    /// It took too long to come.
    RequestTimeout,
    /// Its head is too long.
    HeadTooLarge,
    /// The node refused the connection, or cannot be reached.
    BadGateway,
    /// As many connections as there may be.
    Unavailable,
    /// The node did not answer in time.
    GatewayTimeout,
}

impl Status {
    /// Returns the code and the phrase.
    #[must_use]
    pub fn line(self) -> (u16, &'static str) {
        match self {
            Self::BadRequest => (400, "Bad Request"),
            Self::Forbidden => (403, "Forbidden"),
            Self::NotFound => (404, "Not Found"),
            Self::MethodNotAllowed => (405, "Method Not Allowed"),
            Self::AuthenticationRequired => (407, "Proxy Authentication Required"),
            Self::RequestTimeout => (408, "Request Timeout"),
            Self::HeadTooLarge => (431, "Request Header Fields Too Large"),
            Self::BadGateway => (502, "Bad Gateway"),
            Self::Unavailable => (503, "Service Unavailable"),
            Self::GatewayTimeout => (504, "Gateway Timeout"),
        }
    }
}

/// Reads the head of a request.
pub fn parse(bytes: &[u8]) -> Result<Progress<Connect>, ConnectError> {
    let head = &bytes[..bytes.len().min(HEAD_LEN_MAX)];
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let len = match request.parse(head) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() >= HEAD_LEN_MAX => return Err(ConnectError::TooLong),
        Ok(httparse::Status::Partial) => return Ok(Progress::More),
        Err(httparse::Error::TooManyHeaders) => return Err(ConnectError::TooLong),
        Err(_) => return Err(ConnectError::Malformed),
    };
    // A whole head has both.
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(ConnectError::Malformed);
    };
    if method != "CONNECT" {
        return Err(ConnectError::OtherMethod);
    }
    let target = target.parse().map_err(|_| ConnectError::BadTarget)?;
    let mut fields = request.headers.iter();
    let authorization = fields.find(|field| field.name.eq_ignore_ascii_case(AUTHORIZATION));
    let authorization = authorization
        .map(|field| SecretString::new(String::from_utf8_lossy(field.value.trim_ascii()).into_owned()));
    let value = Connect {
        target,
        authorization,
    };
    Ok(Progress::Done { value, len })
}

/// The answer after which the connection carries bytes.
pub const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Returns the answer to a request that gets no connection, with the reason as its text; the connection ends after it.
#[must_use]
pub fn refusal(status: Status, reason: &str) -> Vec<u8> {
    let (code, phrase) = status.line();
    let more = match status {
        Status::AuthenticationRequired => {
            "Proxy-Authenticate: Basic realm=\"runmesh\", charset=\"UTF-8\"\r\n"
        }
        Status::MethodNotAllowed => "Allow: CONNECT\r\n",
        _ => "",
    };
    let body_len = reason.len() + 1;
    format!(
        "HTTP/1.1 {code} {phrase}\r\n{more}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {body_len}\r\n\
         Connection: close\r\n\r\n{reason}\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(bytes: &[u8]) -> Result<bool, Status> {
        parse(bytes)
            .map(|progress| matches!(progress, Progress::Done { .. }))
            .map_err(ConnectError::status)
    }

    #[test]
    fn a_request_names_its_target_and_may_prove_who_asks() {
        let head = b"CONNECT laptop:80 HTTP/1.1\r\nHost: laptop:80\r\nproxy-authorization:  Basic cnVubWVzaDp4 \r\n\r\n";
        let Ok(Progress::Done { value, len }) = parse(&[head, &b"data"[..]].concat()) else {
            panic!("it is whole");
        };
        assert_eq!(len, head.len(), "what follows is data");
        assert_eq!(value.target.to_string(), "laptop:80");
        let proof = value.authorization.as_ref().expect("it is there");
        assert!(proof.matches("Basic cnVubWVzaDp4"));
        assert!(!format!("{value:?}").contains("cnVu"));
        for end in 0..head.len() {
            assert_eq!(status(&head[..end]), Ok(false), "{end} bytes");
        }
        assert_eq!(status(b"CONNECT [fd00::2]:443 HTTP/1.0\r\n\r\n"), Ok(true));
    }

    #[test]
    fn what_is_not_a_connect_request_is_refused() {
        for (head, wanted) in [
            (
                "GET http://laptop/ HTTP/1.1\r\nHost: laptop\r\n\r\n",
                Status::MethodNotAllowed,
            ),
            ("connect laptop:80 HTTP/1.1\r\n\r\n", Status::MethodNotAllowed),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Status::BadRequest),
            ("CONNECT laptop HTTP/1.1\r\n\r\n", Status::BadRequest),
            ("CONNECT http://laptop:80/ HTTP/1.1\r\n\r\n", Status::BadRequest),
            ("CONNECT laptop:0 HTTP/1.1\r\n\r\n", Status::BadRequest),
            ("CONNECT laptop:80\r\n\r\n", Status::BadRequest),
            (
                "CONNECT laptop:80 HTTP/1.1\r\nno field\r\n\r\n",
                Status::BadRequest,
            ),
        ] {
            assert_eq!(status(head.as_bytes()), Err(wanted), "{head}");
        }
    }

    #[test]
    fn a_head_is_taken_to_its_limits_and_not_beyond() {
        let head = |padding: usize| {
            let padding = "x".repeat(padding);
            format!("CONNECT laptop:80 HTTP/1.1\r\nA: {padding}\r\n\r\n")
        };
        let fits = HEAD_LEN_MAX - head(0).len();
        assert_eq!(status(head(fits).as_bytes()), Ok(true));
        assert_eq!(status(head(fits + 1).as_bytes()), Err(Status::HeadTooLarge));
        assert_eq!(status(&head(fits + 1).as_bytes()[..HEAD_LEN_MAX - 1]), Ok(false));
        let fields = |count: usize| format!("CONNECT laptop:80 HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
        assert_eq!(status(fields(FIELDS_MAX).as_bytes()), Ok(true));
        assert_eq!(
            status(fields(FIELDS_MAX + 1).as_bytes()),
            Err(Status::HeadTooLarge)
        );
    }

    #[test]
    fn a_refusal_is_a_whole_answer_with_its_reason() {
        let answer = String::from_utf8(refusal(Status::AuthenticationRequired, "no")).expect("text");
        assert_eq!(
            answer,
            "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"runmesh\", \
             charset=\"UTF-8\"\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\nConnection: close\r\n\
             \r\nno\n"
        );
    }
}
