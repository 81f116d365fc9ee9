//! Any request to a service, as another service of the region would send it.

/// Calls one service as another.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) base: String,
    pub(super) http: reqwest::Client,
}

impl Client {
    /// A request; `path` begins with `/`.
    pub fn request(&self, method: http::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base))
    }

    /// A GET.
    pub fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.request(http::Method::GET, path)
    }

    /// A POST.
    pub fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.request(http::Method::POST, path)
    }

    /// A PATCH.
    pub fn patch(&self, path: &str) -> reqwest::RequestBuilder {
        self.request(http::Method::PATCH, path)
    }

    /// A DELETE.
    pub fn delete(&self, path: &str) -> reqwest::RequestBuilder {
        self.request(http::Method::DELETE, path)
    }
}
