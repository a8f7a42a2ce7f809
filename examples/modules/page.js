const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const escape = (text) => String(text).replace(/[&<>"]/g, (found) => ENTITIES[found]);

/** A page of HTML with a title and pictures. */
export function render(title, pictures) {
  const items = pictures.map(({ name, alt }) => `<img src="${escape(name)}" alt="${escape(alt)}">`);
  return `<!doctype html><title>${escape(title)}</title>${items.join("")}`;
}
