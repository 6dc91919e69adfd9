use crate::columns::{Cells, Header, Role};
use crate::dataset::Content;
use crate::images::ImageSource;
use crate::{DataError, Reason};

/// The content of one row for a text-to-image model: an image and its caption.
#[derive(Clone, Debug, PartialEq)]
pub struct Captioned {
    /// The image.
    pub image: ImageSource,
    /// The caption, which may be empty: training without a prompt.
    pub caption: String,
}

/// The columns of a [`Captioned`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptionedColumns {
    /// The column of the image.
    pub image: String,
    /// The column of the caption: `text`, `caption` or `prompt`.
    pub caption: String,
}

impl Content for Captioned {
    type Columns = CaptionedColumns;

    fn columns(header: &Header<'_>) -> Result<CaptionedColumns, DataError> {
        let image = header.images()?.ok_or_else(|| header.missing("the image", "image or file_name"))?;
        let caption = header.find("text", &header.options.text, &["text", "caption", "prompt"])?;
        let caption = caption.ok_or_else(|| header.missing("the caption", "text, caption or prompt"))?;
        Ok(CaptionedColumns { image, caption })
    }

    fn roles(columns: &CaptionedColumns) -> Vec<Role> {
        vec![Role::images(&columns.image), Role::text("text", &columns.caption)]
    }

    fn read(columns: &CaptionedColumns, cells: Cells<'_>) -> Result<Self, Reason> {
        let images = cells.images(&columns.image)?;
        let [image] = <[ImageSource; 1]>::try_from(images)
            .map_err(|images| Reason::OneImage { column: columns.image.clone(), images: images.len() })?;
        Ok(Self { image, caption: cells.any_text(&columns.caption)? })
    }

    fn text(&self) -> String {
        self.caption.clone()
    }

    fn images(&self) -> &[ImageSource] {
        std::slice::from_ref(&self.image)
    }
}
