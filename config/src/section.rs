//! What a section of a config file is: its keys, each with its documentation and default, written
//! once. The doc comment of a field *is* the comment that `--print-config` prints.

/// One key of a section.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// The lines of its documentation, each with a leading space.
    pub(crate) doc: &'static [&'static str],
}

/// A struct that is a section.
pub(crate) trait Section {
    const KEYS: &'static [Key];
    /// What the section is for, line by line.
    const ABOUT: &'static [&'static str];
}

/// Where a section stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `[name]`
    Table,
    /// `[name.key]`, any number of them
    Named,
    /// `[[name]]`, any number of them
    Repeated,
}

/// One section of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SectionSchema {
    /// Its name; dotted where it lies in another.
    pub(crate) name: &'static str,
    pub(crate) form: Form,
    pub(crate) about: &'static [&'static str],
    pub(crate) keys: &'static [Key],
    /// An entry of a [`Form::Named`] or [`Form::Repeated`] section, shown where there is none.
    pub(crate) example: &'static str,
}

impl SectionSchema {
    pub(crate) const fn table<S: Section>(name: &'static str) -> Self {
        Self::of::<S>(name, Form::Table, "")
    }

    pub(crate) const fn of<S: Section>(
        name: &'static str,
        form: Form,
        example: &'static str,
    ) -> Self {
        Self {
            name,
            form,
            about: S::ABOUT,
            keys: S::KEYS,
            example,
        }
    }
}

/// Declares a section: a struct with its documentation, keys and, where a key is given one,
/// defaults. Without defaults every key is required.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident {
            $(
                $(#[doc = $doc:literal])+
                $(#[serde($($attribute:tt)*)])?
                pub $key:ident: $type:ty = $default:expr,
            )+
        }
    ) => {
        section! { @declare [#[serde(default, deny_unknown_fields)]]
            $(#[doc = $about])+
            $name { $( $(#[doc = $doc])+ $([$($attribute)*])? $key: $type; )+ }
        }
        impl Default for $name {
            fn default() -> Self {
                Self { $( $key: $default, )+ }
            }
        }
    };
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident {
            $(
                $(#[doc = $doc:literal])+
                $(#[serde($($attribute:tt)*)])?
                pub $key:ident: $type:ty,
            )+
        }
    ) => {
        section! { @declare [#[serde(deny_unknown_fields)]]
            $(#[doc = $about])+
            $name { $( $(#[doc = $doc])+ $([$($attribute)*])? $key: $type; )+ }
        }
    };
    (
        @declare [$(#[$container:meta])+]
        $(#[doc = $about:literal])+
        $name:ident {
            $(
                $(#[doc = $doc:literal])+
                $([$($attribute:tt)*])?
                $key:ident: $type:ty;
            )+
        }
    ) => {
        $(#[doc = $about])+
        // "[tls]" is a section of the file here, and no link.
        #[allow(rustdoc::broken_intra_doc_links)]
        #[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
        $(#[$container])+
        pub struct $name {
            $(
                $(#[doc = $doc])+
                $(#[serde($($attribute)*)])?
                pub $key: $type,
            )+
        }
        impl $crate::section::Section for $name {
            const KEYS: &'static [$crate::section::Key] = &[
                $($crate::section::Key { name: stringify!($key), doc: &[$($doc),+] },)+
            ];
            const ABOUT: &'static [&'static str] = &[$($about),+];
        }
    };
}
pub(crate) use section;
