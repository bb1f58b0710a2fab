// Collections: names of chosen files, the cited passage in sight.
document.addEventListener("change", (event) => {
  const input = event.target.closest(".cf-dropdocs input[type=file]");
  const label = input && document.querySelector(`[data-files-of="${CSS.escape(input.id)}"]`);
  if (!label) return;
  const files = [...input.files];
  const bytes = files.reduce((sum, file) => sum + file.size, 0);
  const title = document.createElement("b");
  title.textContent = files.length === 1 ? files[0].name : `${files.length} files`;
  const names = document.createElement("span");
  names.className = "cf-cap";
  const size = bytes < 1e6 ? `${Math.ceil(bytes / 1000)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
  names.textContent = files.length === 1 ? size : `${files.slice(0, 4).map((f) => f.name).join(", ")}${files.length > 4 ? " …" : ""}, ${size}`;
  label.replaceChildren(title, document.createElement("br"), names);
});

document.getElementById("passage")?.scrollIntoView({ block: "center" });
