// Light or dark before anything is drawn: the theme decides it only once the page is loaded, and
// then buttons and the search field fade in from the colours of the other one.
if (!document.documentElement.dataset.mode) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  Object.assign(document.documentElement.dataset, { mode: "auto", theme: dark ? "dark" : "light" });
}

// The button's own text, with its keys, is its name; the theme gives it another.
document.addEventListener("DOMContentLoaded", () => {
  for (const button of document.querySelectorAll(".search-button-field")) button.removeAttribute("aria-label");
});
