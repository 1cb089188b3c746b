// The format is a part of the address, so that it is chosen here and not sent as a field.

const form = document.getElementById("export");
const formats = [...form.querySelectorAll("[data-format]")];

formats.forEach((chosen) =>
  chosen.addEventListener("change", () => {
    formats.forEach((one) => (one.checked = one === chosen));
    form.action = `/admin/export/${chosen.dataset.format}`;
  }),
);
